"""Is my loss normal? What a model must beat before it has learnt anything: uniform, unigram and bigram predictions.

    uniform   p(b) = 1 / vocab
    unigram   p(b) = (count(b) + 1) / (tokens + vocab)
    bigram    p(b | a) = (count(a, b) + kinds(a) * unigram(b)) / (count(a) + kinds(a))

The first is the loss of an untrained model, ln(vocab) nats a token; the second knows how often each token occurs, the
third the token before, too.

`kinds(a)` is the number of different tokens seen after a: the more of them, the likelier an unseen one (Witten-Bell).

Source: Witten, Bell, "The zero-frequency problem", IEEE Transactions on Information Theory 37(4), 1991, method C, in
its interpolated form: Chen, Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1998,
section 2.5.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from penjing.errors import DataError


@dataclass(frozen=True)
class Baselines:
    """Losses in nats a token, with the factor that turns them into bits a byte."""

    uniform: float
    unigram: float
    bigram: float
    tokens_per_byte: float
    """Scored tokens over the bytes of text that they stand for."""

    def bits_per_byte(self, nats_per_token: float) -> float:
        """The same loss in bits for each UTF-8 byte of the text, which does not depend on the vocabulary."""
        return nats_per_token / math.log(2) * self.tokens_per_byte

    def to_dict(self) -> dict[str, float]:
        """For report.json: nats a token, and bits a byte under names that end in `_bits_per_byte`."""
        values = asdict(self)
        for name in ("uniform", "unigram", "bigram"):
            values[f"{name}_bits_per_byte"] = self.bits_per_byte(values[name])
        return values


def baselines(
    train: NDArray[np.integer],
    held_out: NDArray[np.integer],
    token_bytes: NDArray[np.integer],
    eos: int | None = None,
) -> Baselines:
    """Cross-entropy of counting models of `train` on `held_out`.

    Args:
        train: token ids to count, `(tokens,)`; documents one after the other.
        held_out: token ids to predict, `(tokens,)`. The first token of each document is given, the others are scored.
        token_bytes: how many bytes of text each id stands for, `(vocab,)`.
        eos: the id that ends a document.

    Raises:
        DataError: there are fewer than two tokens on either side.
    """
    if len(train) < 2 or len(held_out) < 2:
        raise DataError(
            f"a baseline needs two tokens or more; got {len(train)} to count and {len(held_out)} to predict"
        )
    vocab = len(token_bytes)
    counts = np.bincount(train, minlength=vocab)
    unigram = (counts + 1) / (len(train) + vocab)  # (vocab,)

    pairs, pair_counts = np.unique(_pairs(train, vocab), return_counts=True)
    first = pairs // vocab
    seen = np.bincount(first, weights=pair_counts, minlength=vocab)  # how often each token had a successor
    kinds = np.bincount(first, minlength=vocab)

    scored = held_out[:-1] != (-1 if eos is None else eos)  # what follows an end is another document's first token
    before, after = held_out[:-1][scored].astype(np.int64), held_out[1:][scored].astype(np.int64)
    wanted = before * vocab + after
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    together = np.where(pairs[place] == wanted, pair_counts[place], 0)
    total = seen[before] + kinds[before]
    bigram = np.where(total > 0, (together + kinds[before] * unigram[after]) / np.maximum(total, 1), unigram[after])
    return Baselines(
        uniform=math.log(vocab),
        unigram=float(-np.log(unigram[after]).mean()),
        bigram=float(-np.log(bigram).mean()),
        tokens_per_byte=len(after) / max(int(token_bytes[after].sum()), 1),
    )


def _pairs(tokens: NDArray[np.integer], vocab: int) -> NDArray[np.int64]:
    return tokens[:-1].astype(np.int64) * vocab + tokens[1:]
