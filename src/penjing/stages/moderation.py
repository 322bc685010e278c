"""The stage that makes a moderator: a classifier of eight categories of harm, in English and in Chinese.

    penjing run moderation --data FOLDER --set moderation.encoder=models/all-MiniLM-L6-v2

    [moderation]
    encoder = "models/all-MiniLM-L6-v2"   # a sentence encoder, left as it is; without one, pieces of words alone

    [moderation.training]
    steps = 1000

What FOLDER holds is in `serving.safety.samples`. What the stage makes: `model/`, which `Moderator.load` and `penjing
serve --moderator` read; `measured.json`, `roc.png` and `categories.png`, on texts that it never saw; and beside it a
classifier of the pieces alone, `baseline/`, to compare with.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from penjing.errors import DataError
from penjing.files import atomic_file, write_json
from penjing.recipe import Interrupted, Stage, Workshop
from penjing.stages.progress import track
from penjing.stages.settings import Training

if TYPE_CHECKING:
    import numpy as np

    from penjing.serving.safety.bag import Bag
    from penjing.serving.safety.classifier import Classifier, Read
    from penjing.serving.safety.moderator import Reader
    from penjing.serving.safety.samples import Sample

_VECTORS = "vectors.safetensors"
_CHUNK = 256
_FRESH = 700_000_000
"""Items of the world from this seed on are everyday text: of no dialogue that a model was trained on."""


class ModerationStage(Stage):
    """Trains a moderator on judged texts."""

    training: Training
    data: str | None = None
    """The folder of judged texts; by default what `--data` names."""
    encoder: str | None = None
    """A folder with a sentence encoder, for what words mean together."""
    buckets: Annotated[int, Field(ge=1024)] = 2**18
    """How many buckets pieces of words are hashed into."""
    everyday: int = Field(500, ge=0)
    """Questions and answers of the generated world, in each language, that are learned as harmless."""
    baseline: bool = True
    """Whether the pieces alone are trained too, to compare with."""

    def check(self) -> None:
        """Looks whether the training's numbers fit together."""
        self.training.check()

    def named_files(self) -> Sequence[str]:
        """The texts and the encoder."""
        return [path for path in (self.data, self.encoder) if path]

    def run(self, workshop: Workshop) -> dict[str, Any]:
        """From judged texts to a moderator that has been measured."""
        import torch

        import penjing
        from penjing.serving.safety.bag import buckets_of, count_buckets, inverse_frequencies
        from penjing.serving.safety.moderation_measure import choose_thresholds
        from penjing.serving.safety.moderator import Moderator, Reader
        from penjing.serving.safety.samples import divide, read_samples

        place = self.data or workshop.data
        if place is None:
            raise DataError("a moderator learns from judged texts: add --data FOLDER")
        splits = divide(read_samples(Path(place)))
        told = {name: {"texts": len(part), "harmful": sum(s.harmful for s in part)} for name, part in splits.items()}
        for name, part in splits.items():
            if not 0 < told[name]["harmful"] < len(part):
                raise DataError(f"{place}: the {name} split has {told[name]}; more judged texts are needed")
        sizes = (f"{name} {n['texts']:,} texts ({n['harmful']:,} harmful)" for name, n in told.items())
        workshop.output.print("  " + ", ".join(sizes))
        splits["train"] = splits["train"] + self._everyday(workshop)
        bags = {name: [buckets_of(sample.text, self.buckets) for sample in part] for name, part in splits.items()}
        factors = inverse_frequencies(count_buckets(bags["train"], self.buckets), len(bags["train"]))
        encoder = penjing.load_encoder(self.encoder, dtype=torch.float32) if self.encoder else None
        reader = Reader(factors, encoder)
        read, reader = self._read(workshop, splits, bags, reader)
        models = {"model": self._trained(workshop, workshop.folder / "training", read, reader.width)}
        if self.baseline and encoder:
            without = {name: [_without_vector(one) for one in part] for name, part in read.items()}
            models["baseline"] = self._trained(workshop, workshop.folder / "baseline", without, 0)
            read["baseline"] = without["test"]
        scores = {
            "model": _scores(models["model"], read["test"]),
            **({"baseline": _scores(models["baseline"], read["baseline"])} if "baseline" in models else {}),
        }
        thresholds = choose_thresholds(splits["validation"], _scores(models["model"], read["validation"]))
        measured = self._measured(workshop, splits["test"], scores, thresholds)
        Moderator(models["model"], reader, thresholds, {"trained_on": told, "measured": measured}).save(
            workshop.folder / "model"
        )
        return {**told, **measured}

    def _trained(self, workshop: Workshop, folder: Path, read: "dict[str, list[Read]]", width: int) -> "Classifier":
        """A classifier, trained by the one Trainer."""
        from penjing.alignment.loader import ItemLoader
        from penjing.serving.safety.classifier import Classifier, Judgement, collate

        objective = Judgement()
        held_out = collate(read["validation"])

        def validate(model: Any) -> dict[str, float]:
            import torch

            with torch.no_grad():
                loss = objective(model, held_out)
            return {"loss": float(loss.total) / loss.weight, "accuracy": loss.metrics["accuracy"] / loss.weight}

        model = Classifier.Config(self.buckets, width).build()
        batched: Any = collate
        loader = ItemLoader(read["train"], self.training.batch, batched, workshop.recipe.seed)
        trainer = self.training.trainer(workshop.recipe.seed).build(
            model, objective, loader, folder, validate=validate, console=workshop.output
        )
        if trainer.run().stopped == "interrupted":
            raise Interrupted
        return model.eval()

    def _everyday(self, workshop: Workshop) -> "list[Sample]":
        """Questions and answers about the generated world."""
        from penjing.data.world import dialogue
        from penjing.serving.safety.samples import CATEGORIES, Sample

        start = workshop.recipe.seed * 1_000_000_000 + _FRESH
        none = dict.fromkeys(CATEGORIES, False)
        return [
            Sample(message["content"], none, (), False, "world", language)
            for language in ("en", "zh")
            for number in range(self.everyday)
            for message in dialogue(start + number, language=language).messages[-2:]
            if message.get("content")
        ]

    def _read(
        self, workshop: Workshop, splits: "dict[str, list[Sample]]", bags: "dict[str, list[Bag]]", reader: "Reader"
    ) -> "tuple[dict[str, list[Read]], Reader]":
        """The texts as the classifier sees them; the encoder's vectors are kept in the stage's folder."""
        import numpy as np

        from penjing.serving.safety.bag import weighed
        from penjing.serving.safety.classifier import read
        from penjing.serving.safety.moderator import Reader

        vectors = self._vectors(workshop, splits, reader)
        if reader.encoder is not None:
            known = vectors["train"][np.abs(vectors["train"]).sum(axis=1) > 0]
            if not len(known):
                raise DataError("the encoder can read none of the texts; choose another one, or leave it out")
            centre = known.mean(axis=0), known.std(axis=0) + np.float32(1e-6)
            for name, part in vectors.items():
                readable = np.abs(part).sum(axis=1, keepdims=True) > 0
                vectors[name] = np.where(readable, (part - centre[0]) / centre[1], 0.0).astype(np.float32)
            reader = Reader(reader.factors, reader.encoder, centre)
        seen = {
            name: [
                read(sample, weighed(bag, reader.factors), vector)
                for sample, bag, vector in zip(part, bags[name], vectors[name], strict=True)
            ]
            for name, part in splits.items()
        }
        return seen, reader

    def _vectors(
        self, workshop: Workshop, splits: "dict[str, list[Sample]]", reader: "Reader"
    ) -> "dict[str, np.ndarray[Any, Any]]":
        import numpy as np
        import torch

        from penjing.training.tensor_files import read_tensors, write_tensors

        empty = np.zeros((0, reader.width), np.float32)
        if reader.encoder is None:
            return {name: np.zeros((len(part), 0), np.float32) for name, part in splits.items()}
        kept, parts = workshop.folder / _VECTORS, {name: list[np.ndarray[Any, Any]]() for name in splits}
        if kept.is_file():
            parts = {name: [tensor.numpy()] for name, tensor in read_tensors(kept).items()}
        total = sum(map(len, splits.values()))
        with track(workshop.output, "reading texts with the encoder") as report:
            for name, part in splits.items():
                done = sum(map(len, parts[name]))
                for start in range(done, len(part), _CHUNK):  # each chunk is kept: an interrupted run goes on here
                    texts = [sample.text for sample in part[start : start + _CHUNK]]
                    parts[name].append(reader.vectors(texts))
                    found = {name: np.concatenate([empty, *chunks]) for name, chunks in parts.items()}
                    with atomic_file(kept) as temporary:
                        write_tensors(temporary, {name: torch.from_numpy(rows) for name, rows in found.items()})
                    report(sum(map(len, found.values())), total)
        return {name: np.concatenate([empty, *chunks]) for name, chunks in parts.items()}

    def _measured(
        self,
        workshop: Workshop,
        test: "list[Sample]",
        scores: "dict[str, np.ndarray[Any, Any]]",
        thresholds: dict[str, dict[str, list[float]]],
    ) -> dict[str, Any]:
        """What the model finds and what it stops for nothing, beside the baseline, as files and in a few lines."""
        import numpy as np

        from penjing.serving.safety import moderation_measure as measure

        found: dict[str, Any] = {"model": measure.report(test, scores["model"], thresholds)}
        curves = {}
        for language, title in measure.LANGUAGES.items():
            own = np.array([sample.language == language for sample in test], bool)
            harmful = np.array([sample.harmful for sample in test], bool)[own]
            if not harmful.any() or harmful.all():
                continue
            for name, values in scores.items():
                column = values[own, -1]
                curves[f"{title}, {'pieces alone' if name == 'baseline' else 'moderator'}"] = (column, harmful)
                if name == "baseline":
                    low, high = measure.resampled(column, harmful, 0.1)
                    share = {"share": measure.recall_at(column, harmful, 0.1), "low": low, "high": high}
                    entry = {"recall_at_10_percent": share, "area": measure.area(column, harmful)}
                    found.setdefault("baseline", {})[language] = entry
            at = found["model"][language]["recall_at_10_percent"]
            workshop.output.print(
                f"  {title}: recall {at['share']:.1%} ({at['low']:.1%} to {at['high']:.1%}) at 10 % false positives"
            )
        measure.plot_roc(workshop.folder / "roc.png", curves)
        measure.plot_categories(workshop.folder / "categories.png", found["model"])
        write_json(workshop.folder / "measured.json", found)
        return found


def _without_vector(one: "Read") -> "Read":
    from dataclasses import replace

    return replace(one, vector=one.vector[:0])


def _scores(model: "Classifier", read: "list[Read]") -> "np.ndarray[Any, Any]":
    from penjing.serving.safety.classifier import probabilities

    return probabilities(model, read).numpy()
