"""Checks chapter 1: python docs/path/checks/01.py my_answer.py."""

import random
import sys

from checking import Checks, differ

from penjing.tokenizer import bpe

checks = Checks()

WORDS = [
    {b"hug": 10, b"pug": 5, b"pun": 12, b"bun": 4, b"hugs": 5},
    {b"aaaa": 1, b"aaa": 2, b"b": 7},  # a pair that overlaps itself
    {b"zx": 3, b"ay": 3, b"ab": 3},  # ties: the smaller left id first, then the smaller right id
    {" 你好".encode(): 4, "你们".encode(): 3, "好".encode(): 9},  # bytes, not characters
    {b"a": 5},  # nothing to merge
]


def random_words(seed: int) -> dict[bytes, int]:
    """Chunks over a small alphabet, so that many pairs are equally frequent."""
    dice = random.Random(seed)
    words = [bytes(dice.choice(b"ab\x00\xe4 ") for _ in range(dice.randint(1, 9))) for _ in range(40)]
    return {word: dice.randint(1, 5) for word in words}


@checks.exercise("learn_merges")
def _(learn_merges):
    for words in [*WORDS, *map(random_words, range(8))]:
        given = [tuple(pair) for pair in learn_merges(dict(words), 12)]
        expected = bpe.train(words, 12)
        for number, (mine, ours) in enumerate(zip(given, expected, strict=False)):
            if mine != ours:
                return f"from {words}: merge number {number} is {mine}, not {ours}"
        if len(given) != len(expected):
            return f"from {words}: {len(given)} merges, not {len(expected)}"
    return None


@checks.exercise("encode_with_ranks")
def _(encode_with_ranks):
    for seed in range(8):
        words = random_words(seed)
        pairs = bpe.train(words, 30)
        ranks = {bytes([byte]): place for place, byte in enumerate(bpe.BYTE_ORDER)}
        ranks |= {left + right: 256 + number for number, (left, right) in enumerate(pairs)}
        model = bpe.BytePairModel.from_ranks(ranks, "penjing")
        model.whole_chunks = False
        order = {pair: number for number, pair in enumerate(pairs)}
        for word in [*words, *random_words(seed + 100), b"", b"abab" * 8]:
            expected = [ranks[token] for token in bpe.encode_chunk(word, order)]
            wrong = differ(f"encode_with_ranks({word!r}, ...)", list(encode_with_ranks(word, ranks)), expected)
            if wrong:
                return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))
