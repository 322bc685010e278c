"""Answers to chapter 2: ours."""

from torch.nn import functional as F


def next_token_loss(logits, tokens):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def gpt2_weights(vocab, width, layers, context):
    block = 12 * width * width + 13 * width
    return (vocab + context) * width + layers * block + 2 * width
