"""What the experiments share: where their text comes from, one short training run, and tables in plain text."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from penjing.data.batch import TokenBatch
from penjing.data.corpus import documents as documents_of
from penjing.data.loader import PackedLoader, validation_batches
from penjing.data.packing import Tokens
from penjing.data.world import document
from penjing.evaluation.loss import mean_loss
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import Rope
from penjing.nn.swiglu import SwiGLU
from penjing.tokenizer import Tokenizer
from penjing.training.adamw import AdamW
from penjing.training.engine import Engine
from penjing.training.muon import Muon
from penjing.training.objectives import Objective, next_token
from penjing.training.schedules import Linear, Schedule


def arguments(name: str, description: str | None, **more: int) -> argparse.Namespace:
    """`--data FILE`, `--out FOLDER` and the whole numbers in `more`; `image` is where the plot goes."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a text file or folder to use instead of the generated world")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images", help="where the plot goes")
    for option, value in more.items():
        parser.add_argument(f"--{option}", type=int, default=value)
    read = parser.parse_args()
    read.image = read.out / f"{name}.png"
    torch.set_num_threads(min(2, torch.get_num_threads()))
    return read


def texts(data: Path | None, count: int, language: str | None = "en", first: int = 0) -> list[str]:
    """`count` documents of the world from seed `first` on; or the user's text, cut at empty lines."""
    if data is None:
        return [document(seed, language=language) for seed in range(first, first + count)]
    pieces = [piece for whole in documents_of(data) for piece in whole.text.split("\n\n") if piece.strip()]
    return pieces[first : first + count] or pieces[-count:]


class Stream:
    """Documents in memory, as a loader wants them: one stream of ids; without `borders`, a single long document."""

    def __init__(self, tokenizer: Tokenizer, documents: Sequence[str], *, borders: bool = True):
        assert tokenizer.eos_id is not None
        parts = [np.append(tokenizer.encode_array(text), tokenizer.eos_id) for text in documents]
        self.ids = np.concatenate(parts).astype(np.int64)
        ends = np.cumsum([len(part) for part in parts]) if borders else [len(self.ids)]
        self.ends = np.array(ends, dtype=np.int64)
        self.documents, self.tokens = len(self.ends), len(self.ids)
        self.counts = None
        self.fingerprint = f"{self.documents} documents, {self.tokens} tokens"

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids start .. stop - 1."""
        return self.ids[start:stop]

    def place(self, token: int) -> str:
        """Where a token comes from."""
        return f"token {token}"


def both_sides(
    args: argparse.Namespace, unseen: int, context: int, batch: int, vocab: int = 512
) -> tuple[Tokenizer, Stream, Callable[[], Iterator[TokenBatch]]]:
    """A tokenizer learnt from `--documents` documents, these to train on, and batches of `unseen` others to measure."""
    learn = texts(args.data, args.documents)
    tokenizer = Tokenizer.train(learn, vocab)
    validation = Stream(tokenizer, texts(args.data, unseen, first=10**6))
    return (
        tokenizer,
        Stream(tokenizer, learn),
        lambda: validation_batches(validation, context, batch, packing="best_fit"),
    )


def llama(vocab: int, context: int, width: int = 64, layers: int = 3, heads: int = 4) -> LanguageModel:
    """A small LLaMA with QK-norm."""
    norm = RMSNorm.Config()
    mixer = Attention.Config(heads=heads, rope=Rope.Config(), qk_norm=norm)
    block = Block.Config(mixer=mixer, mlp=SwiGLU.Config(hidden=width // 3 * 8), norm=norm)
    return LanguageModel.Config(vocab, width, (block,) * layers, context, norm, tied=True).build()


def train(
    model: LanguageModel,
    batches: Iterator[TokenBatch],
    steps: int,
    optimizer: float | AdamW.Config | Muon.Config,
    held_out: Callable[[], Iterator[TokenBatch]],
    *,
    objective: Objective = next_token,
    checks: int = 10,
    schedule: Schedule | None = None,
    start: bool = True,
) -> list[tuple[int, float]]:
    """A short run, by default from a fixed start; (step, validation loss) as it went.

    A number for `optimizer` is the learning rate of AdamW.
    """
    if start:
        model.initialise(torch.Generator().manual_seed(1))
    torch.manual_seed(1)
    if isinstance(optimizer, float):
        optimizer = AdamW.Config(learning_rate=optimizer)
    engine = Engine(model, objective, optimizer)
    schedule, measured = schedule or Linear(warmup=0.1), []
    for step in range(1, steps + 1):
        model.train()
        engine.step([next(batches)], schedule((step - 0.5) / steps))
        if step == 1 or step == steps or step * checks // steps > (step - 1) * checks // steps:
            measured.append((step, mean_loss(model, held_out())))
    model.eval()
    return measured


def loader(data: Tokens, batch: int, context: int, *, seed: int = 1, packing: str = "best_fit") -> PackedLoader:
    """A pretraining loader over documents in memory."""
    return PackedLoader(PackedLoader.Config(batch, context, seed=seed, packing=packing), [data])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows under a head, the first column to the left and the others to the right."""
    written = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in written) for column in range(len(head))]
    for row in written:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())
