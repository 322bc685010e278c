"""A tiny language model, data for it, and a run of both: `python -m tests.training.tiny OUT KEY=VALUE...`."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from penjing.data.batch import TokenBatch
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.norms import RMSNorm
from penjing.nn.rope import Rope
from penjing.nn.swiglu import SwiGLU
from penjing.training.adamw import AdamW
from penjing.training.budget import Budget
from penjing.training.muon import Muon
from penjing.training.objectives import next_token
from penjing.training.trainer import Result, Trainer

VOCAB = 24


def model(dropout: float = 0.0, width: int = 16, layers: int = 2, vocab: int = VOCAB) -> LanguageModel:
    """A LLaMA-like model with some ten thousand weights, the same every time."""
    block = Block.Config(
        mixer=Attention.Config(heads=2, rope=Rope.Config()),
        mlp=SwiGLU.Config(hidden=24),
        norm=RMSNorm.Config(),
        dropout=dropout,
    )
    built = LanguageModel.Config(
        vocab=vocab, width=width, layers=(block,) * layers, context=16, norm=RMSNorm.Config()
    ).build()
    built.initialise(torch.Generator().manual_seed(1))
    return built


class CountingLoader:
    """Rows that count up by 1 or 2 modulo the vocabulary; the mask leaves out another number of tokens each time."""

    def __init__(self, batch: int = 4, context: int = 12):
        self.drawn = 0
        self._batch, self._context = batch, context

    def __next__(self) -> TokenBatch:
        self.drawn += 1
        generator = torch.Generator().manual_seed(self.drawn)
        start = torch.randint(VOCAB, (self._batch, 1), generator=generator)
        stride = torch.randint(1, 3, (self._batch, 1), generator=generator)
        rows = (start + stride * torch.arange(self._context + 1)) % VOCAB  # (batch, context + 1)
        mask = torch.rand(self._batch, self._context, generator=generator) < 0.3 + 0.2 * (self.drawn % 3)
        return TokenBatch(rows[:, :-1], rows[:, 1:], mask, origin=f"row {self.drawn}")

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


OPTIMIZERS = {
    "adamw": AdamW.Config(learning_rate=1e-2),
    "muon": Muon.Config(learning_rate=1e-2, adamw=AdamW.Config(learning_rate=1e-2)),
}


def trainer(out: Path, *, steps: int = 12, optimizer: str = "adamw", dropout: float = 0.0, **more: Any) -> Trainer:
    """A run of the tiny model; what `Trainer.Config` knows may be given by name, other things go to the trainer."""
    beside = {name: more.pop(name) for name in ("validate", "sample", "tokenizer", "console", "fill") if name in more}
    loader = more.pop("loader", None) or CountingLoader()
    built = more.pop("model", None) or model(dropout)
    settings = {"precision": "fp32", "device": "cpu", "display": "quiet", "budget": Budget(steps=steps), **more}
    config = Trainer.Config(optimizer=OPTIMIZERS[optimizer], **settings)
    return config.build(built, next_token, loader, out, **beside)


def run(out: Path, **more: Any) -> Result:
    """Trains to the end."""
    return trainer(out, **more).run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), **json.loads(sys.argv[2]))
