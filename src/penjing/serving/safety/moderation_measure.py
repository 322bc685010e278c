"""How a classifier does on texts that it never saw: what it misses, and whom it stops for nothing.

    recall               of harmful texts, the share that is flagged
    false positive rate  of harmless texts, the share that is flagged

One is worth nothing without the other, so both are always given together: at thresholds that were chosen on other
texts (`by_threshold`: what a server does), and along all thresholds (`roc`: what the classifier can do). Shares have
Wilson's 95 % intervals; recall at an exact rate of false positives, whose threshold is itself uncertain, one from 1,000
resamples of the texts.

Harmless are the texts that people judged and found nothing in. They come from the same places as the harmful ones,
speak of the same things and are hard; everyday text is flagged far less, and is measured apart.

Sources: Fawcett, "An introduction to ROC analysis", 2006; Efron and Tibshirani, "An Introduction to the Bootstrap",
1993, section 13.3.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from penjing.errors import DataError
from penjing.evaluation.statistics import wilson
from penjing.files import atomic_file
from penjing.serving.safety.classifier import OUTPUTS
from penjing.serving.safety.moderator import RATES
from penjing.serving.safety.samples import CATEGORIES, Sample
from penjing.training.plots import COLOURS, Curve, Plot

LANGUAGES = {"en": "English", "zh": "Chinese"}
_FEWEST = 40
"""Judged harmless texts of a language that a category's own thresholds need; with fewer, all languages' are used."""

Scores = Float[np.ndarray, "texts outputs"]


@dataclass(frozen=True)
class Part:
    """So many of so many."""

    count: int
    of: int

    @property
    def share(self) -> float:
        """The share; 0 of nothing."""
        return self.count / self.of if self.of else 0.0

    def to_dict(self) -> dict[str, float]:
        """With Wilson's interval."""
        low, high = wilson(self.count, self.of)
        return {"share": self.share, "low": low, "high": high, "count": self.count, "of": self.of}

    def __str__(self) -> str:
        low, high = wilson(self.count, self.of)
        return f"{self.share:.1%} ({low:.1%} to {high:.1%}; {self.count} of {self.of})"


def choose_thresholds(samples: Sequence[Sample], scores: Scores) -> dict[str, dict[str, list[float]]]:
    """By language and output, what `RATES` of the harmless texts exceed.

    Raises:
        DataError: there are no harmless texts.
    """
    if not any(sample.harmless for sample in samples):
        raise DataError("there are no harmless texts to choose thresholds by")
    chosen: dict[str, dict[str, list[float]]] = {}
    for language in LANGUAGES:
        chosen[language] = {}
        for place, name in enumerate(OUTPUTS):
            without = np.array([_lacks(sample, name) for sample in samples])
            own = without & np.array([sample.language == language for sample in samples])
            used = own if own.sum() >= _FEWEST else without
            column = scores[used if used.any() else np.ones(len(samples), bool), place]
            chosen[language][name] = [_exceeded_by(column, rate) for rate in RATES]
    return chosen


def _lacks(sample: Sample, name: str) -> bool:
    return sample.harmless if name == "harmful" else sample.labels.get(name) is False


def _exceeded_by(values: Float[np.ndarray, " texts"], rate: float) -> float:
    """The lowest of the values that at most such a share of them is above."""
    ordered = np.sort(values)[::-1]
    return float(ordered[min(int(rate * len(ordered)), len(ordered) - 1)])


def roc(scores: Float[np.ndarray, " texts"], harmful: Bool[np.ndarray, " texts"]) -> tuple[list[float], list[float]]:
    """False positive rates and recalls, threshold by threshold, from the strictest."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # texts of the same score pass a threshold together
    hits, alarms = np.cumsum(harmful[order])[last], np.cumsum(~harmful[order])[last]
    return [0.0, *(alarms / max((~harmful).sum(), 1)).tolist()], [0.0, *(hits / max(harmful.sum(), 1)).tolist()]


def recall_at(scores: Float[np.ndarray, " texts"], harmful: Bool[np.ndarray, " texts"], rate: float) -> float:
    """The recall at the lowest threshold that flags at most such a share of the harmless texts."""
    threshold = _exceeded_by(scores[~harmful], rate)
    return float((scores[harmful] > threshold).mean())


def area(scores: Float[np.ndarray, " texts"], harmful: Bool[np.ndarray, " texts"]) -> float:
    """The area under the curve: how often a harmful text scores above a harmless one."""
    alarms, hits = roc(scores, harmful)
    return float(np.trapezoid(hits, alarms))


def resampled(
    scores: Float[np.ndarray, " texts"], harmful: Bool[np.ndarray, " texts"], rate: float, *, times: int = 1000
) -> tuple[float, float]:
    """A 95 % interval of `recall_at`: its 2.5 and 97.5 percentiles over resamples of harmful and harmless texts."""
    random = np.random.default_rng(0)
    bad, good = scores[harmful], scores[~harmful]
    truth = np.concatenate([np.ones(len(bad), bool), np.zeros(len(good), bool)])
    found = []
    for _ in range(times):
        drawn = np.concatenate([random.choice(bad, len(bad)), random.choice(good, len(good))])
        found.append(recall_at(drawn, truth, rate))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def report(
    samples: Sequence[Sample], scores: Scores, thresholds: Mapping[str, Mapping[str, Sequence[float]]]
) -> dict[str, Any]:
    """Everything by language: recall and false positive rate at each threshold, at an exact 10 %, by category and by
    where the texts are from. JSON-able.
    """
    found: dict[str, Any] = {}
    for language, title in LANGUAGES.items():
        chosen = np.array([sample.language == language for sample in samples], bool)
        part = [sample for sample in samples if sample.language == language]
        harmful = np.array([sample.harmful for sample in part], bool)
        if not harmful.any() or harmful.all():
            continue
        own = scores[chosen]
        column, limits = own[:, -1], thresholds[language]
        low, high = resampled(column, harmful, 0.1)
        found[language] = {
            "language": title,
            "texts": len(part),
            "harmful": int(harmful.sum()),
            "area": area(column, harmful),
            "recall_at_10_percent": {"share": recall_at(column, harmful, 0.1), "low": low, "high": high},
            "by_threshold": {
                f"{rate:g}": _two(column > limits["harmful"][at], harmful) for at, rate in enumerate(RATES)
            },
            "by_category": _by_category(part, own, limits),
            "by_source": {
                source: _two((column > limits["harmful"][_TENTH])[of], harmful[of])
                for source in sorted({sample.source for sample in part})
                if (of := np.array([sample.source == source for sample in part])).any()
            },
        }
    return found


_TENTH = RATES.index(0.1)


def _two(flagged: Bool[np.ndarray, " texts"], harmful: Bool[np.ndarray, " texts"]) -> dict[str, Any]:
    return {
        "recall": Part(int(flagged[harmful].sum()), int(harmful.sum())).to_dict(),
        "false_positives": Part(int(flagged[~harmful].sum()), int((~harmful).sum())).to_dict(),
    }


def _by_category(
    samples: Sequence[Sample], scores: Scores, limits: Mapping[str, Sequence[float]]
) -> dict[str, dict[str, Any]]:
    """Of each category's texts, how many are flagged at all, and by the category's own threshold for 10 %."""
    found = {}
    for place, name in enumerate(CATEGORIES):
        judged = np.array([name in sample.labels for sample in samples], bool)
        if not judged.any():
            continue
        holds = np.array([bool(sample.labels.get(name)) for sample in samples], bool)[judged]
        own = scores[judged]
        flagged = own[:, -1] > limits["harmful"][_TENTH]
        found[name] = {
            "flagged": Part(int(flagged[holds].sum()), int(holds.sum())).to_dict(),
            **_two(own[:, place] > limits[name][_TENTH], holds),
        }
    return found


def everyday(texts: Iterable[str], flagged: Iterable[bool]) -> dict[str, Any]:
    """How many everyday texts were flagged, and the first few that were."""
    pairs = list(zip(texts, flagged, strict=True))
    stopped = [text for text, bad in pairs if bad]
    return {**Part(len(stopped), len(pairs)).to_dict(), "examples": [text[:120] for text in stopped[:5]]}


def plot_roc(path: Path, curves: Mapping[str, tuple[Float[np.ndarray, " texts"], Bool[np.ndarray, " texts"]]]) -> None:
    """Recall against false positives, one curve for each name; up to 30 % of the latter.

    Raises:
        PenjingError: the file cannot be written.
    """
    drawn = []
    for name, (scores, harmful) in curves.items():
        alarms, hits = roc(scores, harmful)
        kept = [place for place, rate in enumerate(alarms) if rate <= 0.3]
        drawn.append(Curve(name, [alarms[i] for i in kept], [hits[i] for i in kept]))
    Plot("Harmful texts found, by harmless ones flagged", "false positive rate", "recall", drawn).save(path)


def plot_categories(path: Path, measured: Mapping[str, Any]) -> None:
    """Recall and false positives of each category and language with their intervals, at the thresholds for 10 %.

    Raises:
        PenjingError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows: list[tuple[str, Mapping[str, float], Mapping[str, float]]] = []
    for of in measured.values():
        tenth = of["by_threshold"]["0.1"]
        rows.append((f"any, {of['language']}", tenth["recall"], tenth["false_positives"]))
        rows += [
            (f"{name}, {of['language']}", one["recall"], one["false_positives"])
            for name, one in of["by_category"].items()
            if one["recall"]["of"]
        ]
    figure = Figure(figsize=(8, 1.6 + 0.36 * len(rows)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    kinds = (("recall", [row[1] for row in rows], -0.14), ("false positive rate", [row[2] for row in rows], 0.14))
    for colour, (name, shares, aside) in zip(COLOURS, kinds, strict=False):
        middle = [share["share"] for share in shares]
        ends = [
            [max(0.0, share["share"] - share["low"]) for share in shares],
            [max(0.0, share["high"] - share["share"]) for share in shares],
        ]
        places = [place + aside for place in range(len(rows))]
        axes.errorbar(middle, places, xerr=ends, fmt="o", color=colour, capsize=3, label=name)
    axes.set_yticks(range(len(rows)), [f"{row[0]} ({row[1]['of']})" for row in rows])
    axes.invert_yaxis()
    axes.axvline(0.1, color="#666666", linewidth=1, linestyle="--")
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share, with 95 % intervals, at thresholds chosen for 10 %")
    figure.suptitle("Texts never seen, by category (how many have it)", fontsize=13)
    axes.grid(True, axis="x", color="#dddddd")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    with atomic_file(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, format="png")
