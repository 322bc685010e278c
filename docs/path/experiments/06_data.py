"""Documents as rows: how full the rows are, how many documents are cut, and what a border is worth."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from common import arguments, loader, table, texts, train

from penjing.data import shards
from penjing.data.batch import TokenBatch
from penjing.data.loader import assemble, validation_batches
from penjing.data.packing import Rows, efficiency, rows_of
from penjing.data.shards import Shards
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import Rope
from penjing.nn.swiglu import SwiGLU
from penjing.tokenizer import Tokenizer
from penjing.training.objectives import Loss, next_token
from penjing.training.plots import Curve, Plot

CONTEXTS, CONTEXT = (64, 96, 128, 192, 256, 384, 512, 768, 1024), 256
PACKINGS = ("padded", "best_fit", "stream")


def first_come(lengths: list[int], capacity: int) -> list[int]:
    """The simplest packing: a document joins the last row or opens a new one. How full each row is."""
    rows = [0]
    for length in lengths:
        if rows[-1] + length > capacity:
            rows.append(0)
        rows[-1] += length
    return rows


def cut(rows: list, data: Shards) -> float:
    """The share of documents that do not lie in one piece."""
    ends = data.ends.tolist()
    begins = {start for row in rows for start, _ in row} | {stop for row in rows for _, stop in row}
    starts = [0, *ends[:-1]]
    return sum(any(place in begins for place in range(a + 1, b - 1)) for a, b in zip(starts, ends, strict=True)) / len(
        ends
    )


def blurred(model: LanguageModel, batch: TokenBatch) -> Loss:
    """The loss of a model that is not told where documents begin and end while it trains."""
    return next_token(model, replace(batch, positions=None, documents=None) if model.training else batch)


def model_of(vocab: int) -> LanguageModel:
    """A small LLaMA."""
    norm = RMSNorm.Config()
    mixer = Attention.Config(heads=4, rope=Rope.Config())
    block = Block.Config(mixer=mixer, mlp=SwiGLU.Config(hidden=168), norm=norm)
    return LanguageModel.Config(vocab, 64, (block,) * 3, CONTEXT, norm, tied=True).build()


def main() -> None:
    """Packs documents in several ways, then trains with and without borders; prints and draws."""
    args = arguments("06-data", __doc__, steps=600, documents=8000)
    learn, unseen = texts(args.data, args.documents), texts(args.data, 200, first=10**6)
    tokenizer = Tokenizer.train(learn, 512)
    with tempfile.TemporaryDirectory() as folder:
        data = shards.write(learn, tokenizer, Path(folder) / "train")
        validation = shards.write(unseen, tokenizer, Path(folder) / "validation")
        print(
            f"{data.documents:,} documents, {data.tokens:,} tokens ({data.header.dtype}), {data.bytes:,} bytes of text"
        )

        def rows(packing: str, context: int) -> list:
            made: Rows = rows_of(packing, data, context, seed=1)
            return list(made.one_epoch())

        print(f"\nRows of {CONTEXT} tokens")
        packed = {packing: rows(packing, CONTEXT) for packing in PACKINGS}
        table(
            ["packing", "rows", "filled", "documents cut"],
            [[p, f"{len(r):,}", f"{efficiency(r, CONTEXT):.1%}", f"{cut(r, data):.1%}"] for p, r in packed.items()],
        )
        filled = {p: [efficiency(rows(p, context), context) for context in CONTEXTS] for p in ("padded", "best_fit")}
        lengths = [
            int(n) - 1 for n in torch.from_numpy(data.ends.copy()).diff(prepend=torch.zeros(1, dtype=torch.long))
        ]
        filled["first come"] = []
        for context in CONTEXTS:
            parts = [min(context, n - i) for n in lengths for i in range(0, n, context)]
            spaces = first_come(parts, context)
            filled["first come"].append(sum(spaces) / (len(spaces) * context))

        # Packed = separate: the same logits for a document, alone and in a row with others.
        model = model_of(tokenizer.vocab_size)
        model.initialise(torch.Generator().manual_seed(1))
        row = next(row for row in packed["best_fit"] if len(row) >= 3)
        together = assemble([(data, row)], CONTEXT)
        start, stop = row[1]
        place = slice(row[0][1] - row[0][0], row[0][1] - row[0][0] + stop - start)
        with torch.inference_mode():
            alone = model(torch.from_numpy(data.read(start, stop).astype("int64"))[None])
            inside = model(together.tokens, together.positions, together.documents)[:, place]
            careless = model(together.tokens)[:, place]
        print("\nA row's second document: largest difference of its logits from those that it has alone")
        table(
            ["", "difference"],
            [
                ["with borders", f"{(inside - alone).abs().max():.0e}"],
                ["without", f"{(careless - alone).abs().max():.0e}"],
            ],
        )

        def held_out():
            return validation_batches(validation, CONTEXT, 4, packing="padded")

        print(f"\nValidation loss, one document a row, after {args.steps} steps")
        results = []
        for name, objective in (("borders in training", next_token), ("no borders", blurred)):
            model = model_of(tokenizer.vocab_size)
            losses = train(model, loader(data, 4, CONTEXT), args.steps, 5e-3, held_out, objective=objective, checks=1)
            results.append([name, losses[-1][1]])
        table(["", "nats per token"], results)
    curves = [Curve(name, CONTEXTS, [100 * share for share in shares], points=True) for name, shares in filled.items()]
    Plot("How full the rows are", "tokens in a row", "places that hold a token, %", curves, log_x=True).save(args.image)


if __name__ == "__main__":
    main()
