import itertools
import math

import numpy as np
import pytest

from penjing.errors import DataError
from penjing.evaluation.baselines import baselines


def slow_bigram(train, held_out, vocab):
    """The definition, by loops over dictionaries."""
    unigram = [(list(train).count(b) + 1) / (len(train) + vocab) for b in range(vocab)]
    follow: dict[int, list[int]] = {}
    for a, b in itertools.pairwise(train):
        follow.setdefault(a, []).append(b)
    total = 0.0
    for a, b in itertools.pairwise(held_out):
        after = follow.get(a, [])
        kinds = len(set(after))
        p = (after.count(b) + kinds * unigram[b]) / (len(after) + kinds) if after else unigram[b]
        total -= math.log(p)
    return total / (len(held_out) - 1)


def test_bigram_equals_its_definition_by_loops():
    """Oracle: the formula written with dictionaries; float64, so to 1e-12."""
    random = np.random.default_rng(1)
    train, held_out = random.integers(0, 9, 400), random.integers(0, 12, 150)
    found = baselines(train, held_out, np.ones(12, int))
    assert found.bigram == pytest.approx(slow_bigram(train.tolist(), held_out.tolist(), 12), abs=1e-12)
    assert found.uniform == pytest.approx(math.log(12))


def test_bigram_probabilities_sum_to_one():
    """For each seen token, the probabilities of all successors add to 1 (to 1e-12): nothing is lost in smoothing."""
    train = np.array([0, 1, 2, 0, 2, 2, 1, 0, 1])
    for a in range(4):
        total = sum(math.exp(-baselines(train, np.array([a, b]), np.ones(5, int)).bigram) for b in range(5))
        assert total == pytest.approx(1, abs=1e-12)


def test_a_text_of_one_pattern_is_nearly_free_for_bigrams_and_not_for_unigrams():
    train = np.tile([0, 1, 2, 3], 500)
    found = baselines(train, train[:100], np.ones(4, int))
    assert found.bigram < 0.02
    assert found.unigram == pytest.approx(math.log(4), abs=1e-3)
    assert found.bits_per_byte(found.uniform) == pytest.approx(2)


def test_refuses_an_empty_text():
    with pytest.raises(DataError, match="two tokens"):
        baselines(np.array([], dtype=np.int64), np.array([1, 2]), np.ones(4, int))


def test_first_tokens_of_documents_are_given_and_only_scored_bytes_count():
    """Two documents `1 2 0` and `3 1 0` (0 ends): 4 tokens are scored; 2 and 1 have 5 and 3 bytes, an end has none."""
    train = np.array([1, 2, 0, 3, 1, 0])
    found = baselines(train, train, np.array([0, 3, 5, 7]), eos=0)
    assert found.tokens_per_byte == pytest.approx(4 / 8)
