"""Near copies: the estimate, what is found, and what is not."""

import random

import numpy as np
import pytest

from penjing.data.cleaning.minhash import NearCopies, shingles, signature, similarity, words
from penjing.data.world import document

WORDS = ("the", "red", "blue", "box", "under", "tree", "cat", "dog", "runs", "sees", "and", "house", "river", "stone")


def text(seed: int, length: int = 400) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def changed(original: str, every: int) -> str:
    """One word in `every` replaced by one that is nowhere else."""
    said = original.split()
    for i in range(every // 2, len(said), every):
        said[i] = f"changed{i}"
    return " ".join(said)


def jaccard(a: str, b: str) -> float:
    """Oracle: sets of runs of five words, compared as they are."""
    one, two = ({tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in (words(a), words(b)))
    return len(one & two) / len(one | two)


@pytest.mark.parametrize("every", [400, 100, 40, 20, 10])
def test_signatures_estimate_the_jaccard_similarity(every):
    """Over 20 pairs the mean error is below three standard errors of the mean, and no error above five of one."""
    errors = []
    for seed in range(20):
        a = text(seed)
        b = changed(a, every)
        j = jaccard(a, b)
        errors.append(similarity(signature(a), signature(b)) - j)
    deviation = (j * (1 - j) / 128) ** 0.5
    assert abs(np.mean(errors)) < 3 * deviation / 20**0.5 + 1e-9
    assert max(map(abs, errors)) < 5 * deviation + 1e-9


def test_shingles_are_the_different_runs_of_five_words():
    assert len(shingles("one two three four five six")) == 2
    assert len(shingles("a b c d e a b c d e a b c d e")) == 5
    assert len(shingles("one two")) == 1
    assert len(shingles("...")) == 0
    assert signature("!?") is None
    np.testing.assert_array_equal(shingles("One, two THREE four five!"), shingles("one two three four five"))
    assert len(shingles("我们今天去公园")) == 3  # seven characters are seven words


def test_near_copies_are_found_and_others_are_not():
    """200 documents: every copy with 2 % of its words changed (similarity about 0.82) is matched to its original in
    nineteen of twenty cases or more, and no document of the world to another."""
    copies = NearCopies(0.7)
    for seed in range(200):
        assert copies.find(signature(text(seed))) is None
        copies.keep(str(seed), signature(text(seed)))
    found = [copies.find(signature(changed(text(seed), 50))) for seed in range(200)]
    assert sum(match is not None and match[0] == str(seed) for seed, match in enumerate(found)) >= 190
    assert copies.find(signature(text(7))) == ("7", 1.0)
    assert copies.find(signature(document(1, language="zh"))) is None


def test_a_long_text_is_hashed_in_pieces_with_the_same_result():
    """More shingles than are hashed at a time; the minimum over pieces is the minimum over all."""
    long = " ".join(f"w{i}" for i in range(10_000))
    assert similarity(signature(long), signature(long + " end")) > 0.97
