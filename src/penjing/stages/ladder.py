"""The stage that measures a scaling law: small runs, a fit, a prediction, and a larger run to hold it against."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from penjing.errors import ConfigError
from penjing.files import atomic_file, read_json, write_json
from penjing.recipe import Stage, Workshop
from penjing.settings import Count, Settings
from penjing.stages.data import Shards, load_tokenizer
from penjing.stages.settings import Model, Training
from penjing.stages.training import train_on_shards

if TYPE_CHECKING:
    from penjing.training.scaling_laws import Chinchilla, Points

_RESULT = "result.json"
_RESAMPLES = 200


class Size(Settings):
    """One size of model; what all sizes share stands in the ladder's `model`."""

    width: Count
    layers: Count
    heads: Count


class Ladder(Stage):
    """Trains every size on every number of tokens, fits Chinchilla's law, predicts a larger run, and trains it."""

    model: Model
    """What the models have in common; width, layers and heads are the sizes' own. With `tuned_width` each has learning
    rates fitted to its width; without, all have the same."""
    training: Training
    """How each is trained; its budget is the number of tokens."""
    sizes: Annotated[tuple[Size, ...], Field(min_length=2)]
    tokens: Annotated[tuple[Count, ...], Field(min_length=2)]
    """Lengths of runs."""
    larger: Size
    """The model whose loss is predicted before it is trained, on the most tokens of the ladder."""
    row: Count = 128
    """Tokens of a row."""
    validation_tokens: Count = 150_000
    """How many tokens each run's loss is measured on."""

    def check(self) -> None:
        """Looks whether the sizes can be built and there are runs enough for a law."""
        import torch

        for size in (*self.sizes, self.larger):
            with torch.device("meta"):
                self._model(size).config(vocab=1).build()
            self._model(size).transfer(vocab=1)
        for tokens in self.tokens:
            self._training(tokens).trainer(seed=0)
        if len(self.sizes) * len(self.tokens) < 7:
            raise ConfigError("a law of five constants needs 7 runs or more: add sizes or tokens")
        if self.row > self.model.context:
            raise ConfigError(f"row is {self.row}, and the model's context only {self.model.context}")

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """Makes `points.csv`, `law.json`, `scaling.png` and a folder for each run."""
        from penjing.training.scaling_laws import Chinchilla, Points, bootstrap, fit, interval

        output = workshop.output
        runs = [self._one(workshop, *rung) for rung in self._rungs()]
        _write_points(workshop, runs)
        points = Points.of(*([run[key] for run in runs] for key in ("parameters", "tokens", "validation_loss")))
        fitted = fit(points, Chinchilla)
        laws = bootstrap(points, fitted, resamples=_RESAMPLES, seed=workshop.recipe.seed)
        tokens = max(self.tokens)
        size = self._parameters(workshop, self.larger)
        predicted = float(fitted.law.loss(size, tokens))
        low, high = interval([law.loss(size, tokens) for law in laws])
        largest = float((points.parameters * points.tokens).max())
        output.print(
            f"  L(N, D) = {fitted.law.E:.3f} + {fitted.law.A:.3g} / N^{fitted.law.alpha:.3f} "
            f"+ {fitted.law.B:.3g} / D^{fitted.law.beta:.3f}, from {len(points)} runs\n"
            f"  {size:,} parameters on {tokens:,} tokens, {size * tokens / largest:.1f} times the largest of them: "
            f"predicted loss {predicted:.4f} ({low:.4f} to {high:.4f})",
            soft_wrap=True,
        )
        outcome = self._one(workshop, self.larger, tokens)
        actual = float(outcome["validation_loss"])
        error = predicted / actual - 1
        output.print(
            f"  it ended at {actual:.4f}: the prediction is {abs(error):.2%} too {'high' if error > 0 else 'low'}"
        )
        result = {
            "law": vars(fitted.law),
            "huber_sum": fitted.objective,
            "runs": len(points),
            "predicted": predicted,
            "interval": [low, high],
            "actual": actual,
            "error": error,
            "parameters": size,
            "tokens": tokens,
        }
        write_json(workshop.folder / "law.json", result)
        _plot(workshop, points, fitted.law, outcome, predicted)
        return result

    def _rungs(self) -> Iterator[tuple[Size, int]]:
        """Every run of the ladder, the cheapest first."""
        every = [(size, tokens) for size in self.sizes for tokens in self.tokens]
        yield from sorted(every, key=lambda rung: rung[0].layers * rung[0].width ** 2 * rung[1])

    def _model(self, size: Size) -> Model:
        return self.model.model_copy(update=size.model_dump())

    def _training(self, tokens: int) -> Training:
        return self.training.model_copy(update={"tokens": tokens, "steps": None, "minutes": None})

    def _parameters(self, workshop: Workshop, size: Size) -> int:
        import torch

        with torch.device("meta"):
            return self._model(size).config(load_tokenizer(workshop).vocab_size).build().parameter_count()

    def _one(self, workshop: Workshop, size: Size, tokens: int) -> dict[str, Any]:
        """One run, or what it found if it is finished."""
        folder = workshop.folder / f"w{size.width}-l{size.layers}-t{tokens}"
        if (folder / _RESULT).exists():
            return dict(read_json(folder / _RESULT, ConfigError))
        folder.mkdir(parents=True, exist_ok=True)
        workshop.output.print(f"  [bold]{folder.name}[/bold]")
        shop = replace(workshop, folder=folder)
        result = train_on_shards(
            shop,
            workshop.made_by(Shards),
            self._model(size),
            self._training(tokens),
            row=self.row,
            validation_tokens=self.validation_tokens,
        )
        write_json(folder / _RESULT, {**result, "asked_tokens": tokens})
        return result


def _write_points(workshop: Workshop, runs: list[dict[str, Any]]) -> None:
    """The runs as `penjing scaling fit` reads them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["parameters", "tokens", "loss"])
    writer.writerows([run["parameters"], run["tokens"], run["validation_loss"]] for run in runs)
    with atomic_file(workshop.folder / "points.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _plot(
    workshop: Workshop, points: "Points", law: "Chinchilla", outcome: Mapping[str, Any], predicted: float
) -> None:
    """Loss against tokens: a line of the law for each size, the runs, and the larger run beside its prediction."""
    import numpy as np

    from penjing.training.plots import Curve, Plot

    curves = []
    reach = np.geomspace(points.tokens.min(), points.tokens.max(), 50)
    for size in np.unique(points.parameters):
        curves.append(Curve(f"law, {size / 1e6:.2f}M", list(reach), list(law.loss(size, reach))))
    curves.append(Curve("runs", list(points.tokens), list(points.loss), only_points=True))
    x = [float(outcome["tokens"])]
    curves.append(Curve("larger run", x, [float(outcome["validation_loss"])], only_points=True))
    curves.append(Curve("predicted", x, [predicted], only_points=True))
    plot = Plot("A law and a run beyond it", "tokens", "nats per token", curves, log_x=True)
    plot.save(workshop.folder / "scaling.png")
