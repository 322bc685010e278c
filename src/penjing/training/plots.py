"""Pictures of a run: the loss and the learning rate against the step, as PNG files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penjing.files import atomic_file
from penjing.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which people with any kind of colour vision can tell apart."""


@dataclass(frozen=True)
class Curve:
    """A line of a plot."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    smooth: bool = False
    """Draw a running mean, with the values themselves faint behind it."""
    points: bool = False
    """Mark each value, for curves of few points."""
    only_points: bool = False
    """Mark each value and draw no line."""


@dataclass(frozen=True)
class Plot:
    """Curves over one pair of axes, with level lines to compare them to."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    levels: Mapping[str, float] = field(default_factory=dict)
    """Horizontal lines by name, such as the loss of a bigram model."""
    log_x: bool = False

    def save(self, path: Path) -> None:
        """Draws the plot into a PNG file.

        Raises:
            PenjingError: the file cannot be written.
        """
        # an Agg canvas made by hand: no window system, and pyplot's global state is left alone
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.8), dpi=120, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for curve, colour in zip(self.curves, _cycle(len(self.curves)), strict=True):
            _draw(axes, curve, colour)
        self._level_lines(axes)
        self._dress(axes)
        with atomic_file(path) as temporary:
            canvas.print_figure(temporary, format="png")

    def _level_lines(self, axes: "Axes") -> None:
        for name, value in self.levels.items():
            axes.axhline(value, color="#666666", linewidth=1, linestyle="--")
            axes.annotate(
                f"{name} {value:.2f}",
                (1, value),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 3),
                textcoords="offset points",
                ha="right",
                fontsize=10,
                color="#444444",
            )

    def _dress(self, axes: "Axes") -> None:
        from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullLocator, StrMethodFormatter

        axes.set_title(self.title, fontsize=14, loc="left")
        axes.set_xlabel(self.x_label, fontsize=12)
        axes.set_ylabel(self.y_label, fontsize=12)
        axes.tick_params(labelsize=11)
        if self.log_x:
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            if high < 1000 * low:
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            else:
                axes.xaxis.set_major_formatter(LogFormatterSciNotation())
            axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(True, color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if len(self.curves) > 1:
            axes.legend(fontsize=11, frameon=False)


def plot_run(folder: Path, levels: Mapping[str, float] | None = None) -> list[Path]:
    """Draws `loss.png` and `learning_rate.png` from a run's metrics.jsonl; nothing when there is no step yet."""
    lines = read_metrics(folder / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    if not steps:
        return []
    x = [line["step"] for line in steps]
    loss = Plot(
        "Loss",
        "step",
        "nats per token",
        [Curve("training", x, [line["loss"] for line in steps], smooth=True), *_validation(lines)],
        levels or {},
    )
    rate = Plot("Learning rate", "step", "learning rate", [Curve("", x, [line["learning_rate"] for line in steps])])
    paths = [folder / "loss.png", folder / "learning_rate.png"]
    loss.save(paths[0])
    rate.save(paths[1])
    return paths


def plot_curves(folder: Path, plots: Mapping[str, tuple[str, str]]) -> list[Path]:
    """Draws what a run's metrics.jsonl says of each name, in training and in validation, to `NAME.png`.

    Args:
        folder: the run's.
        plots: title and unit by the metric's name; those that the run has not measured are left out.
    """
    lines = read_metrics(folder / "metrics.jsonl")
    paths = []
    for name, (title, unit) in plots.items():
        steps = [line for line in lines if name in line]
        if not steps:
            continue
        curves = [Curve("training", [line["step"] for line in steps], [line[name] for line in steps], smooth=True)]
        if found := [line for line in lines if name in line.get("validation", {})]:
            values = [line["validation"][name] for line in found]
            curves.append(Curve("validation", [line["step"] for line in found], values, points=True))
        paths.append(folder / f"{name}.png")
        Plot(title, "step", unit, curves).save(paths[-1])
    return paths


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Each value's mean with its neighbours, up to `reach` on either side: it does not lag behind a slope."""
    sums, last = [0.0, *accumulate(values)], len(values) - 1
    means = []
    for i in range(len(values)):
        near = min(reach, i, last - i)  # the same on both sides, at the ends too
        means.append((sums[i + near + 1] - sums[i - near]) / (2 * near + 1))
    return means


def _validation(lines: Sequence[Mapping[str, Any]]) -> list[Curve]:
    found = [line for line in lines if "loss" in line.get("validation", {})]
    if not found:
        return []
    return [Curve("validation", [f["step"] for f in found], [f["validation"]["loss"] for f in found], points=True)]


def _draw(axes: "Axes", curve: Curve, colour: str) -> None:
    y = curve.y
    if curve.smooth and len(y) > 20:
        axes.plot(curve.x, y, color=colour, alpha=0.2, linewidth=0.8)
        y = running_mean(y, len(y) // 50 + 2)
    axes.plot(
        curve.x,
        y,
        color=colour,
        linewidth=2,
        linestyle="none" if curve.only_points else "-",
        label=curve.label,
        marker="o" if curve.points or curve.only_points else None,
        markersize=7 if curve.only_points else 4,
    )


def _cycle(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]
