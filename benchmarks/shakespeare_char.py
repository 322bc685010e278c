"""Characters of Shakespeare: how soon a recipe of ours is as good as nanoGPT's CPU setting at its end.

    python benchmarks/shakespeare_char.py TEXT [--recipe FILE.toml] [--set key=value ...] [--rounds 1] [--json]

The yardstick is that setting (4 layers, 4 heads, 128 wide, blocks of 64, batches of 12, 2,000 steps of AdamW) in a
plain PyTorch loop of its own, below. Ours is the Trainer with the model and the training that a recipe's [pretrain]
table names, on bytes instead of the text's 65 characters (the text is ASCII: the same symbols, the same predictions).

Both train on the first 90 % of the text and are measured on the same 1,600 windows of 64, evenly spaced over the rest.
A recipe with a longer context is measured on 1,600 windows of that length too, beginnings included. Training time is
the time of all steps, without measuring. Yardstick and recipe take turns in one process.
"""

import argparse
import itertools
import json
import math
import statistics
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from penjing.data.batch import TokenBatch
from penjing.data.loader import PackedLoader, windows
from penjing.evaluation.loss import mean_loss
from penjing.stages.training import Pretrain
from penjing.training.metrics import read_metrics
from penjing.training.objectives import next_token

WINDOWS, BLOCK, VOCAB = 1600, 64, 259
RECIPE = Path(__file__).parents[1] / "recipes" / "shakespeare-char.toml"


class Symbols:
    """A text as one document of ids, which a loader can read."""

    documents, eos, counts = 1, None, None

    def __init__(self, ids: NDArray[np.int64]):
        self._ids = ids
        self.tokens = len(ids)
        self.ends = np.array([len(ids)])
        self.fingerprint = str(len(ids))

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Some of the ids."""
        return self._ids[start:stop]

    def place(self, token: int) -> str:
        """For error messages."""
        return f"character {token}"


class PlainBlock(nn.Module):
    """A GPT-2 block without biases."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.project = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream after it."""
        batch, seq, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, seq, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (batch, heads, seq, head_dim)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, seq, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGPT(nn.Module):
    """The yardstick's model: learned positions, tied head, 0.8 million weights."""

    def __init__(self, vocab: int, width: int = 128, layers: int = 4, heads: int = 4, context: int = BLOCK):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                ends_block = name.endswith(("project.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers) if ends_block else 0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy."""
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.tokens.weight.t()  # (batch, seq, vocab)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def run_yardstick(text: bytes, border: int, steps: int, seed: int) -> tuple[float, float]:
    """Seconds of training and validation loss of the plain loop."""
    symbols = sorted(set(text))
    ids = torch.from_numpy(np.searchsorted(symbols, np.frombuffer(text, np.uint8)).astype(np.int64))
    torch.manual_seed(seed)
    model = PlainGPT(len(symbols))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    seconds = 0.0
    for step in range(steps):
        started = time.perf_counter()
        decay = (step - 100) / (steps - 100)
        rate = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + 9e-4 * (1 + math.cos(math.pi * decay)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        places = torch.randint(border - BLOCK, (12,))
        batch = torch.stack([ids[place : place + BLOCK + 1] for place in places])  # (12, 65)
        loss = model(batch[:, :-1], batch[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds += time.perf_counter() - started
    with torch.no_grad():
        losses = [model(b.tokens, b.targets).item() for b in _windows(ids[border:].numpy())]
    return seconds, statistics.mean(losses)


def run_recipe(text: bytes, border: int, recipe: Pretrain, seed: int) -> dict[str, float]:
    """The Trainer with a recipe's [pretrain] table: seconds of training, steps, losses."""
    ids = np.frombuffer(text, np.uint8).astype(np.int64)
    model = recipe.model.config(VOCAB).build()
    model.initialise(torch.Generator().manual_seed(seed))
    loader = PackedLoader.Config(
        batch=recipe.training.batch, context=recipe.model.context, seed=seed, packing=recipe.packing
    ).build(Symbols(ids[:border]))
    with tempfile.TemporaryDirectory() as out:
        config = recipe.training.trainer(seed)
        result = config.build(model, next_token, loader, Path(out)).run()
        seconds = max(line["seconds"] for line in read_metrics(Path(out) / "metrics.jsonl"))
    found = {"recipe_seconds": seconds, "recipe_steps": result.step}
    found["recipe_loss"] = mean_loss(model, _windows(ids[border:]))
    if recipe.model.context != BLOCK:
        found[f"recipe_loss_{recipe.model.context}"] = mean_loss(model, _windows(ids[border:], recipe.model.context))
    return found


def _windows(ids: NDArray[np.int64], length: int = BLOCK) -> list[TokenBatch]:
    return list(windows(Symbols(ids), WINDOWS, length, 100))


def read_recipe(path: Path, settings: Sequence[str] = ()) -> Pretrain:
    """The [pretrain] table of a recipe file, with `training.steps=250` and the like put in place."""
    table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["pretrain"]
    for setting in settings:
        name, _, value = setting.partition("=")
        *path_to, key = name.split(".")
        place = table
        for part in path_to:
            place = place[part]
        place[key] = tomllib.loads(f"value = {value}")["value"]
    return Pretrain.model_validate(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="How soon a recipe reaches nanoGPT's CPU Shakespeare setting.")
    parser.add_argument("text", type=Path, help="the text of tiny Shakespeare")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for example training.steps=250"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--yardstick-steps", type=int, default=2000, help="0 leaves the yardstick out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    recipe = read_recipe(options.recipe, options.set)
    text = options.text.read_bytes()
    border = int(0.9 * len(text))
    rounds = []
    for seed in range(1, options.rounds + 1):
        line = run_recipe(text, border, recipe, seed)
        losses = ", ".join(f"{value:.4f}" for name, value in line.items() if "loss" in name)
        told = f"round {seed}: recipe {losses} after {line['recipe_steps']} steps in {line['recipe_seconds']:.1f} s"
        if options.yardstick_steps:
            seconds, loss = run_yardstick(text, border, options.yardstick_steps, seed)
            line |= {"yardstick_seconds": seconds, "yardstick_loss": loss}
            line["fraction"] = line["recipe_seconds"] / seconds
            told += f"; yardstick {loss:.4f} in {seconds:.1f} s; 1/{1 / line['fraction']:.1f} of its time"
        rounds.append(line)
        if not options.json:
            print(told, flush=True)
    medians = {key: statistics.median(line[key] for line in rounds) for key in rounds[0]}
    if options.json:
        print(json.dumps({"rounds": rounds, "medians": medians}, indent=2))
    elif len(rounds) > 1:
        print("medians: " + ", ".join(itertools.starmap("{} {:.4g}".format, medians.items())))


if __name__ == "__main__":
    main()
