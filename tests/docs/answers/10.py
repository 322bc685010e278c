"""Answers to chapter 10: ours."""

import numpy as np

from penjing.evaluation import perplexity
from penjing.evaluation.baselines import baselines


def windows(length, context, stride):
    return [(window.begin, window.first, window.end) for window in perplexity.windows(length, context, stride)]


def bigram_loss(train, held_out, vocab):
    return baselines(np.array(train), np.array(held_out), np.ones(vocab, dtype=np.int64)).bigram
