"""A text as the pieces that it has, whatever their order: runs of characters and words, hashed into buckets.

    weight(piece) = (1 + ln count) * ln((1 + N) / (1 + texts that have it)) + 1, scaled so that a text's weights have
                    length 1                                                                        (tf-idf)
    score(text)   = sum over its pieces of  weight(piece) * row[bucket(piece)]

Runs of one to four characters see a word's spelling through its variants (f*ck, fuuck), and Chinese words without a
dictionary; words and pairs of words see more context. A bucket is a hash modulo their number, so nothing has to be
remembered but how many texts of the training set had each bucket; pieces that only one of them had are left out.

Sources: Joulin et al., "Bag of Tricks for Efficient Text Classification", 2016, arXiv:1607.01759; Weinberger et al.,
"Feature Hashing for Large Scale Multitask Learning", 2009, arXiv:0902.2206.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from penjing.data.cleaning.minhash import words
from penjing.serving.safety.normalise import plain

_RUNS = (1, 2, 3, 4, 5)
_LONGEST = 4000
"""Characters of a text that are read."""

Bag = tuple[Int[np.ndarray, " pieces"], Float[np.ndarray, " pieces"]]
"""A text's buckets, each once, and a number for each: how often the text has it, or its weight."""


def pieces(text: str) -> Counter[str]:
    """How often each piece is in a text: runs of characters within words (of Chinese, across them), words, pairs."""
    found = words(plain(text[:_LONGEST]).text)
    counts: Counter[str] = Counter()
    joined = _joined(found)
    for word in joined:
        padded = word if len(word) > 1 and not word.isascii() else f" {word} "
        for length in _RUNS:
            counts.update("c" + padded[at : at + length] for at in range(len(padded) - length + 1))
    counts.update("w" + word for word in found)
    counts.update(f"w{one} {two}" for one, two in pairwise(found))
    return counts


def buckets_of(text: str, buckets: int) -> Bag:
    """A text's buckets, each once and in order, and how often it has them."""
    counts = pieces(text)
    hashed = np.fromiter((crc32(piece.encode()) % buckets for piece in counts), np.int64, len(counts))
    often = np.fromiter(counts.values(), np.float32, len(counts))
    ids, places = np.unique(hashed, return_inverse=True)
    return ids, np.bincount(places, often, len(ids)).astype(np.float32)


def count_buckets(texts: Iterable[Bag], buckets: int) -> Int[np.ndarray, " buckets"]:
    """How many of the texts, as `buckets_of` has them, have each bucket."""
    counts = np.zeros(buckets, np.int64)
    for ids, _ in texts:
        counts[ids] += 1
    return counts


def inverse_frequencies(counts: Int[np.ndarray, " buckets"], texts: int) -> Float[np.ndarray, " buckets"]:
    """Each bucket's factor; 0 for those that fewer than two texts have."""
    factors = np.log((1 + texts) / (1 + counts)) + 1
    return np.where(counts >= 2, factors, 0.0).astype(np.float32)


def bag_of(text: str, factors: Float[np.ndarray, " buckets"]) -> Bag:
    """A text's buckets and weights."""
    return weighed(buckets_of(text, len(factors)), factors)


def weighed(bag: Bag, factors: Float[np.ndarray, " buckets"]) -> Bag:
    """Weights in the place of how often a text has its buckets."""
    ids, counts = bag
    weights = (1 + np.log(counts.astype(np.float64))) * factors[ids]
    ids, weights = ids[weights > 0], weights[weights > 0]
    length = math.sqrt(float((weights**2).sum())) or 1.0
    return ids, (weights / length).astype(np.float32)


def collate_bags(bags: Sequence[Bag]) -> tuple[Int[Tensor, " pieces"], Int[Tensor, " texts"], Float[Tensor, " pieces"]]:
    """Several bags in one row: buckets, where each text begins, weights; what `F.embedding_bag` takes."""
    sizes = [len(ids) for ids, _ in bags]
    starts = np.cumsum([0, *sizes[:-1]])
    ids = np.concatenate([ids for ids, _ in bags]) if bags else np.zeros(0, np.int64)
    weights = np.concatenate([weights for _, weights in bags]) if bags else np.zeros(0, np.float32)
    return torch.from_numpy(ids), torch.from_numpy(starts), torch.from_numpy(weights)


def _joined(found: Sequence[str]) -> list[str]:
    """The words, with neighbouring Chinese characters as one."""
    runs: list[str] = []
    in_run = False
    for word in found:
        han = len(word) == 1 and not word.isascii()
        if han and in_run:
            runs[-1] += word
        else:
            runs.append(word)
        in_run = han
    return runs
