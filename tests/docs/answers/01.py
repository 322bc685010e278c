"""Answers to chapter 1: ours."""

from itertools import pairwise

from penjing.tokenizer.bpe import train as learn_merges  # noqa: F401


def encode_with_ranks(chunk, ranks):
    parts = [bytes([byte]) for byte in chunk]
    while True:
        found = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not found:
            return [ranks[part] for part in parts]
        i = min(found)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
