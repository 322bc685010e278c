"""Time to a given loss: how soon the default recipe is as good as GPT-2 with AdamW and a cosine at its end.

    python benchmarks/speedrun.py --out FOLDER [--minutes 1.5] [--seeds 5] [--json]

Both train on the same bilingual text from the world, with the same vocabulary, rows, batch and precision, at most as
many parameters, and validate on the same held-out text. The baseline's learning rate is the best of five, each tried in
full.

    baseline    GPT-2 (learned positions, LayerNorm, GELU, tied), AdamW, warm-up and cosine to zero: all of the time
    default     the recipe tiny-chat's: 40 %, 30 % and 20 % of the time

A learning-rate schedule must know its end, so each share of the time is a run of its own; where the baseline's loss is
reached lies between them, on a straight line. Then the default recipe without one of its ingredients, at 40 %.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

from penjing.recipe import Recipe, Workshop, run_stages
from penjing.stages import KINDS
from penjing.stages.data import Shards
from penjing.stages.settings import Model, Training
from penjing.stages.training import Pretrain, train_on_shards

SHARES = (0.4, 0.3, 0.2)
RATES = (0.001, 0.002, 0.004, 0.008, 0.016)
ABLATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "AdamW, not Muon": {"optimizer": "adamw", "learning_rate": 0.008},
    "cosine, not constant and decay": {"schedule": "cosine"},
    "GPT-2's layers": {"family": "gpt2", "hidden": None},
    "no QK-norm": {"family": "llama"},
    "outputs that do not start as zero": {"zero_outputs": False},
    "a head of its own, not tied": {"tied": False},
    "rows cut at random, not packed by best fit": {"packing": "random"},
    "half of the batch": {"batch": 12},
    "twice the batch": {"batch": 48},
    "deeper and narrower (128 x 5)": {"width": 128, "layers": 5, "heads": 4, "hidden": 352},
    "wider and shallower (192 x 2)": {"width": 192, "layers": 2, "heads": 6, "hidden": 512},
}


class Track:
    """One text, and runs on it that differ in what they are told to."""

    def __init__(self, out: Path, minutes: float):
        self.minutes = minutes
        self._out = out
        recipe = Recipe.read("tiny-chat", KINDS)
        pretrain = next(stage for stage in recipe.stages.values() if isinstance(stage, Pretrain))
        self.model, self.training, self.row = pretrain.model, pretrain.training, pretrain.row or pretrain.model.context
        stages = {name: stage for name, stage in recipe.stages.items() if name in ("world", "tokenizer", "shards")}
        self._recipe = Recipe("speedrun", stages)
        run_stages(self._recipe, out, None, Console(quiet=True))

    def baseline(self, seed: int, rate: float) -> dict[str, float]:
        """GPT-2 with AdamW and a cosine, for all of the time."""
        model = self.model.model_copy(update={"family": "gpt2", "hidden": None, "zero_outputs": False})
        settings = {"optimizer": "adamw", "learning_rate": rate, "schedule": "cosine", "warmup": 0.05}
        return self._run(model, self.training.model_copy(update=settings), 1.0, seed)

    def default(self, seed: int, share: float, **changes: Any) -> dict[str, float]:
        """The default recipe, perhaps changed."""
        packing = changes.pop("packing", "best_fit")
        of_model = {name: value for name, value in changes.items() if name in Model.model_fields}
        of_training = {name: value for name, value in changes.items() if name in Training.model_fields}
        model, training = self.model.model_copy(update=of_model), self.training.model_copy(update=of_training)
        return self._run(model, training, share, seed, packing)

    def _run(
        self, model: Model, training: Training, share: float, seed: int, packing: Any = "best_fit"
    ) -> dict[str, float]:
        recipe = Recipe("speedrun", self._recipe.stages, seed=seed)
        number = sum(1 for _ in self._out.glob("run-*"))
        folder = self._out / f"run-{number:03d}"
        folder.mkdir()
        shop = Workshop(folder, self._out, recipe, None, Console(quiet=True), {})
        shards = self._out / next(name for name, stage in self._recipe.stages.items() if isinstance(stage, Shards))
        timed = training.model_copy(update={"minutes": self.minutes * share})
        result = train_on_shards(shop, shards, model, timed, row=self.row, validation_tokens=50_000, packing=packing)
        return {"loss": result["validation_loss"], "parameters": result["parameters"], "tokens": result["tokens"]}


def share_needed(goal: float, losses: dict[float, float]) -> float:
    """The share of the time at which the loss is the goal, on the line between the runs on both sides of it."""
    points = sorted(losses.items())
    if points[0][1] <= goal:
        return points[0][0]
    for (early, high), (late, low) in itertools.pairwise(points):
        if low <= goal:
            return early + (late - early) * (high - goal) / (high - low)
    return float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to a given loss.")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the text and all runs")
    parser.add_argument("--minutes", type=float, default=1.5, help="the baseline's time")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ablation-seeds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    track = Track(options.out, options.minutes)
    say = Console(stderr=True, highlight=False).print
    rates = {rate: track.baseline(1, rate)["loss"] for rate in RATES}
    rate = min(rates, key=lambda rate: rates[rate])
    say("baseline's learning rates:", ", ".join(f"{rate:g} {loss:.4f}" for rate, loss in rates.items()))
    seeds = []
    for seed in range(1, options.seeds + 1):
        default = {share: track.default(seed, share) for share in SHARES}
        baseline = track.baseline(seed, rate)
        losses = {share: run["loss"] for share, run in default.items()}
        needed = share_needed(baseline["loss"], losses)
        seeds.append({"seed": seed, "baseline": baseline, "default": default, "needed": needed})
        told = ", ".join(f"{share:.0%} {loss:.4f}" for share, loss in losses.items())
        say(f"seed {seed}: baseline {baseline['loss']:.4f}; default {told}: needs {needed:.0%}")
    table = {}
    for name, changes in ABLATIONS.items():
        losses = [track.default(seed, SHARES[0], **changes)["loss"] for seed in range(1, options.ablation_seeds + 1)]
        table[name] = statistics.mean(losses)
        each = ", ".join(f"{loss:.4f}" for loss in losses)
        say(f"{name:44}{table[name]:.4f}  {table[name] - table['as it is']:+.4f}  ({each})")
    needed = [run["needed"] for run in seeds]
    say(
        f"the default recipe needs {statistics.median(needed):.0%} of the time ({min(needed):.0%} to {max(needed):.0%})"
    )
    if options.json:
        print(json.dumps({"rates": rates, "seeds": seeds, "ablations": table, "needed": needed}, indent=2))


if __name__ == "__main__":
    main()
