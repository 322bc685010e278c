"""Checks chapter 10: python docs/path/checks/10.py my_answer.py."""

import random
import sys

import numpy as np
from checking import Checks, differ

from penjing.evaluation import perplexity
from penjing.evaluation.baselines import baselines

checks = Checks()


@checks.exercise("windows")
def _(windows):
    for length, context, stride in (
        (10, 6, 3),
        (5, 6, 3),
        (1, 6, 3),
        (2, 2, 1),
        (100, 16, 8),
        (100, 16, 15),
        (97, 7, 4),
    ):
        expected = [(w.begin, w.first, w.end) for w in perplexity.windows(length, context, stride)]
        given = [tuple(window) for window in windows(length, context, stride)]
        wrong = differ(f"windows({length}, {context}, {stride})", given, expected)
        if wrong:
            return wrong
    return None


@checks.exercise("bigram_loss")
def _(bigram_loss):
    dice = random.Random(1)
    for vocab, seen, asked in ((2, 6, 5), (3, 20, 30), (20, 100, 50), (50, 40, 60)):
        train = [min(dice.randrange(vocab), dice.randrange(vocab)) for _ in range(seen)]
        held_out = [min(dice.randrange(vocab), dice.randrange(vocab)) for _ in range(asked)]
        ones = np.ones(vocab, dtype=np.int64)
        expected = baselines(np.array(train), np.array(held_out), ones).bigram
        call = f"bigram_loss({train[:12]}..., {held_out[:12]}..., {vocab})"
        wrong = differ(call, float(bigram_loss(list(train), list(held_out), vocab)), expected)
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))
