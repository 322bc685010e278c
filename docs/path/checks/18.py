"""Checks chapter 18: python docs/path/checks/18.py my_answer.py."""

import sys

import torch
from checking import Checks, differ

from penjing.models.encoder import Pooling
from penjing.tokenizer.wordpiece import WordPieceModel

checks = Checks()

PIECES = (
    *("[UNK]", *"abelnu", "un", "able", "unable", "ban", "be", "bean"),
    *("##a", "##b", "##e", "##n", "##l", "##ble", "##able", "##aff", "##ff", "##bean", "##nab", "##ane"),
)
WORDS = ("un", "unable", "unaffable", "banana", "bean", "beanable", "nab", "lean", "fun", "unx", "abelf", "bananexa")


@checks.exercise("pieces")
def _(pieces):
    model = WordPieceModel(["", *PIECES[1:]], ("[UNK]", 0))
    words = (
        "un",
        "unable",
        "unaffable",
        "banana",
        "bean",
        "beanable",
        "nab",
        "lean",
        "fun",
        "unx",
        "abelf",
        "bananexa",
    )
    for word in (*words, "".join("abelnu"[number * number % 6] for number in range(9))):
        expected = [PIECES[id] for id in model.encode(word).tolist()]
        wrong = differ(f"pieces({word!r}, vocabulary)", pieces(word, set(PIECES)), expected)
        if wrong:
            return wrong
    return None


@checks.exercise("text_vectors")
def _(text_vectors):
    generator = torch.Generator().manual_seed(1)
    for texts, seq, width in ((1, 1, 4), (2, 5, 3), (4, 7, 8)):
        hidden = torch.randn(texts, seq, width, generator=generator)
        lengths = torch.randint(1, seq + 1, (texts, 1), generator=generator)
        real = torch.arange(seq) < lengths  # (texts, seq)
        expected = Pooling()(hidden, torch.where(real, 0, -1))
        call = f"text_vectors(hidden {texts, seq, width}, of {lengths.flatten().tolist()} tokens)"
        wrong = differ(call, text_vectors(hidden.clone(), real.clone()), expected)
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))
