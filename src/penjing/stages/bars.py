"""A picture of scores: groups of horizontal bars, with marks on them for what to compare with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from penjing.files import atomic_file
from penjing.training.plots import COLOURS

_MARKERS = ("D", "|", "x")


@dataclass(frozen=True)
class Bars:
    """Scores between 0 and 1."""

    title: str
    names: Sequence[str]
    """What is scored, top to bottom."""
    groups: Mapping[str, Sequence[float]]
    """Bars by label, one score for each name."""
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Points by label, one for each name, over its bars."""

    def save(self, path: Path) -> None:
        """Draws the picture into a PNG file.

        Raises:
            PenjingError: the file cannot be written.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 1.2 + 0.42 * len(self.names)), dpi=120, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        places = range(len(self.names))
        height = 0.8 / max(len(self.groups), 1)
        for number, (label, scores) in enumerate(self.groups.items()):
            shift = (number + 0.5) * height - 0.4
            axes.barh([place + shift for place in places], scores, height * 0.92, color=COLOURS[number], label=label)
        for number, (label, scores) in enumerate(self.marks.items()):
            marker = _MARKERS[number % len(_MARKERS)]
            axes.scatter(scores, places, marker=marker, s=60, color="#222222", zorder=3, label=label)
        axes.set_yticks(list(places), list(self.names), fontsize=11)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_title(self.title, fontsize=14, loc="left")
        axes.grid(True, axis="x", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.legend(loc="outside lower center", ncols=4, fontsize=11, frameon=False)
        with atomic_file(path) as temporary:
            canvas.print_figure(temporary, format="png")
