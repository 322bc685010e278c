"""Copies in a corpus: which of them MinHash finds, and what they cost a model that learns from them."""

import itertools
import random
from collections.abc import Iterator

import numpy as np
import torch
from common import Stream, arguments, llama, loader, table, texts, train

from penjing.data.batch import TokenBatch
from penjing.data.cleaning.minhash import BANDS, PERMUTATIONS, NearCopies, shingles, signature
from penjing.data.cleaning.pipeline import Cleaning, Report, clean
from penjing.data.corpus import Document
from penjing.data.loader import validation_batches
from penjing.evaluation.loss import mean_loss
from penjing.tokenizer import Tokenizer
from penjing.training.plots import Curve, Plot

CHANGED = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2)
"""Shares of words that a near copy has changed."""
ROWS = PERMUTATIONS // BANDS
CONTEXT, BATCH, VOCAB = 128, 16, 512


def disturbed(text: str, share: float, words: list[str], dice: random.Random) -> str:
    """The text with a share of its words replaced by others."""
    return " ".join(dice.choice(words) if dice.random() < share else word for word in text.split(" "))


def jaccard(one: str, two: str) -> float:
    """How alike two texts are, exactly: of their shingles together, the share that both have."""
    a, b = set(shingles(one).tolist()), set(shingles(two).tolist())
    return len(a & b) / len(a | b)


def found(one: str, two: str) -> bool:
    """Whether the second is told to be a near copy of the first."""
    known = NearCopies(0.8)
    known.keep("one", signature(one))
    return known.find(signature(two)) is not None


def with_copies(documents: list[str], times: int, words: list[str], dice: random.Random) -> list[str]:
    """A quarter of the documents `times` times over, each time a hundredth of its words changed; shuffled."""
    often = documents[: len(documents) // 4]
    copies = [disturbed(text, 0.01, words, dice) for text in often for _ in range(times - 1)]
    everything = [*documents, *copies]
    dice.shuffle(everything)
    return everything


def main() -> None:
    """Prints both tables and draws the curve."""
    args = arguments("21-cleaning", __doc__, documents=1200, pairs=150, steps=300)
    dice = random.Random(1)
    documents = texts(args.data, args.documents)
    words = sorted({word for text in documents[:500] for word in text.split(" ")})

    # which near copies are found
    long = [" ".join(documents[start : start + 6]) for start in range(0, 6 * args.pairs, 6)]  # as long as web pages
    pairs = []
    for share in CHANGED:
        for text in long:
            copy = disturbed(text, share, words, dice)
            pairs.append((share, jaccard(text, copy), found(text, copy)))
    rows = []
    for share in CHANGED:
        of = [(alike, seen) for changed, alike, seen in pairs if changed == share]
        rows.append((f"{share:.1%}", float(np.mean([a for a, _ in of])), f"{np.mean([s for _, s in of]):.0%}"))
    table(["words changed", "similarity", "found"], rows)
    edges = np.linspace(0.3, 1.0, 15)
    middle, share_found = [], []
    for low, high in itertools.pairwise(edges.tolist()):
        inside = [seen for _, alike, seen in pairs if low <= alike < high or (high == 1.0 and alike == 1.0)]
        if inside:
            middle.append((low + high) / 2)
            share_found.append(float(np.mean(inside)))
    grid = np.linspace(0.3, 1.0, 141)
    meets = 1 - (1 - grid**ROWS) ** BANDS
    Plot(
        "Which near copies are found",
        "Jaccard similarity",
        "share of pairs",
        [
            Curve("meet in a band: 1 - (1 - J^8)^16", grid.tolist(), meets.tolist()),
            Curve("found, and estimated at 0.8 or more", middle, share_found, points=True),
        ],
    ).save(args.image)

    # what copies cost
    print()
    dirty = with_copies(documents, 10, words, dice)
    report = Report()
    kept = clean(
        (Document(text, f"document {i}") for i, text in enumerate(dirty)), Cleaning(quality=None), report=report
    )
    cleaned = [document.text for document in kept]
    out = report.left_out
    print(f"{report.read:,} documents, {report.kept:,} kept: {out['copy']:,} copies, {out['near copy']:,} near copies")
    tokenizer = Tokenizer.train(documents, VOCAB)
    unseen = Stream(tokenizer, texts(args.data, 300, first=10**6))
    rows = []
    for name, corpus in (("with copies", dirty), ("cleaned", cleaned)):
        kept_back = Stream(tokenizer, corpus[: len(corpus) // 10])  # the usual way: a tenth, at random
        stream = Stream(tokenizer, corpus[len(corpus) // 10 :])
        model = llama(tokenizer.vocab_size, CONTEXT)
        history = train(model, loader(stream, BATCH, CONTEXT), args.steps, 1e-2, lambda: batches_of(unseen), checks=1)
        epochs = args.steps * BATCH * CONTEXT / stream.tokens
        rows.append(
            (name, f"{stream.tokens:,}", f"{epochs:.1f}", mean_loss(model, batches_of(kept_back)), history[-1][1])
        )
    table(["trained on", "tokens", "epochs", "loss on a tenth kept back", "on new text"], rows)


def batches_of(stream: Stream) -> Iterator[TokenBatch]:
    """Everything once, to measure."""
    return validation_batches(stream, CONTEXT, BATCH, packing="best_fit")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
