"""Judges texts with a trained classifier: a probability for each category, and whether that is too much.

    moderator = Moderator.load("runs/moderation/moderation/model")
    moderator.scores(["I will find you and hurt you."])    # [{"sexual": 0.01, ..., "violence": 0.81, ...}]
    moderator.judge(["..."], false_positives=0.02)         # [Judged(flagged=True, categories=(...), ...)]

How much is too much is asked in the terms of who pays for it: the share of harmless texts that one is ready to see
flagged. Each probability is compared with the one that so many of the validation texts, harmless ones, exceeded.

A moderator is a folder: the encoder as Hugging Face stores one (config.json, model.safetensors, tokenizer.json),
`moderation.safetensors` and `moderation.json` beside it. Without an encoder, only the last two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from penjing.errors import CheckpointError, GenerationError
from penjing.files import atomic_folder, read_json, write_json
from penjing.models.folder import CONFIG, refuse_other_files
from penjing.serving.safety.bag import bag_of
from penjing.serving.safety.classifier import OUTPUTS, Classifier, Read, probabilities
from penjing.serving.safety.language import language_of
from penjing.serving.safety.samples import CATEGORIES
from penjing.training.tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from penjing.models.encoder import Encoder
    from penjing.tokenizer import Tokenizer

RECORD, WEIGHTS, FORMAT = "moderation.json", "moderation.safetensors", 1
RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""The shares of harmless texts for which thresholds are kept."""
_UNREADABLE = 0.2
_BATCH = 32


@dataclass(frozen=True)
class Judged:
    """What the classifier says of a text."""

    flagged: bool
    categories: tuple[str, ...]
    """Those that are above their thresholds; of a flagged text without any, the likeliest."""
    scores: Mapping[str, float]
    """Each category's probability."""
    harmful: float
    """The probability that any holds."""


class Reader:
    """Turns texts into what the classifier sees.

    Args:
        factors: of each bucket, from the training set.
        encoder: with its tokenizer; None for the bag alone.
        centre: the mean and the spread of the training texts' vectors.
    """

    def __init__(
        self,
        factors: Float[np.ndarray, " buckets"],
        encoder: "tuple[Encoder, Tokenizer] | None" = None,
        centre: tuple[Float[np.ndarray, " width"], Float[np.ndarray, " width"]] | None = None,
    ):
        self.factors, self.encoder, self.centre = factors, encoder, centre

    @property
    def width(self) -> int:
        """Numbers of a vector; 0 without an encoder."""
        return self.encoder[0].config.width if self.encoder else 0

    def __call__(self, texts: Sequence[str]) -> list[Read]:
        """The texts, unjudged."""
        return [
            Read(bag_of(text, self.factors), vector) for text, vector in zip(texts, self.vectors(texts), strict=True)
        ]

    def vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "texts width"]:
        """The encoder's vectors, less their mean and in units of their spread once that is known; else as they are.

        A text that it cannot read has zeros.
        """
        found = np.zeros((len(texts), self.width), np.float32)
        if self.encoder is None:
            return found
        import penjing

        encoder, tokenizer = self.encoder
        readable = [number for number, text in enumerate(texts) if can_read(tokenizer, text)]
        if readable:
            found[readable] = penjing.embed(encoder, tokenizer, [texts[n] for n in readable], batch=_BATCH).numpy()
            if self.centre is not None:
                found[readable] = (found[readable] - self.centre[0]) / self.centre[1]
        return found


def can_read(tokenizer: "Tokenizer", text: str) -> bool:
    """Whether a tokenizer knows most of a text's pieces."""
    unknown = tokenizer.token_id("[UNK]")
    if unknown is None:
        return True
    ids = tokenizer.encode(text[:2000])
    return bool(ids) and ids.count(unknown) < _UNREADABLE * len(ids)


class Moderator:
    """A trained classifier with the thresholds that go with it.

    Args:
        model: the classifier.
        reader: what it reads texts with.
        thresholds: by language and output, the probability that each of `RATES` of the harmless texts exceeds.
        facts: what else the record says: where it is from, and how it did.
    """

    categories: tuple[str, ...] = tuple(CATEGORIES)

    def __init__(
        self,
        model: Classifier,
        reader: Reader,
        thresholds: Mapping[str, Mapping[str, Sequence[float]]],
        facts: Mapping[str, Any] | None = None,
    ):
        self.model, self.reader, self.thresholds, self.facts = model.eval(), reader, thresholds, facts or {}

    def scores(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Each category's probability, text by text.

        Raises:
            GenerationError: `texts` is a single text.
        """
        return [dict(judged.scores) for judged in self.judge(texts)]

    def judge(self, texts: Sequence[str], *, false_positives: float = 0.02) -> list[Judged]:
        """What is too much, at the share of harmless texts that may be flagged (the next lower of `RATES`).

        Raises:
            GenerationError: `texts` is a single text, or no threshold is as strict as that share.
        """
        if isinstance(texts, str):
            raise GenerationError("a list of texts is judged; write [text] for a single one")
        rate = _rate(false_positives)
        found = probabilities(self.model, self.reader(texts)).tolist()
        return [self._judged(text, row, rate) for text, row in zip(texts, found, strict=True)]

    def _judged(self, text: str, row: Sequence[float], rate: int) -> Judged:
        limits = self.thresholds[language_of(text)]
        scores = dict(zip(OUTPUTS, row, strict=True))
        harmful = scores.pop("harmful")
        flagged = harmful > limits["harmful"][rate]
        above = tuple(name for name, score in scores.items() if score > limits[name][rate])
        if flagged and not above:
            above = (max(scores, key=lambda name: scores[name]),)
        return Judged(flagged, above if flagged else (), scores, harmful)

    def save(self, folder: str | Path) -> None:
        """Writes the folder, whole or not at all.

        Raises:
            CheckpointError: it holds files but no moderator, or cannot be written.
        """
        from penjing.models.encoder_folder import save_encoder

        folder = Path(folder)
        refuse_other_files(folder, RECORD, "moderator")
        with atomic_folder(folder) as temporary:
            if self.reader.encoder is not None:
                save_encoder(temporary, *self.reader.encoder)
            tensors = {name: weight.detach() for name, weight in self.model.named_parameters()}
            tensors["factors"] = torch.from_numpy(self.reader.factors)
            if self.reader.centre is not None:
                tensors |= {
                    f"vectors.{n}": torch.from_numpy(x) for n, x in zip(_CENTRE, self.reader.centre, strict=True)
                }
            write_tensors(temporary / WEIGHTS, tensors)
            record = {
                "format": FORMAT,
                "outputs": list(OUTPUTS),
                "encoder": self.reader.encoder is not None,
                "rates": list(RATES),
                "thresholds": {
                    language: {name: list(values) for name, values in by_name.items()}
                    for language, by_name in self.thresholds.items()
                },
            }
            write_json(temporary / RECORD, {**record, "facts": dict(self.facts)})

    @classmethod
    def load(cls, path: str | Path) -> "Moderator":
        """The moderator in a folder.

        Raises:
            CheckpointError: it is missing, damaged, or of a form that this version does not read.
        """
        from penjing.models.encoder_folder import load_encoder

        folder = Path(path)
        record = read_json(folder / RECORD, CheckpointError)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise CheckpointError(f"{folder / RECORD}: not a moderator of format {FORMAT}; train it anew")
        if record.get("outputs") != list(OUTPUTS) or record.get("rates") != list(RATES):
            raise CheckpointError(f"{folder / RECORD}: other categories or rates than this version's; train it anew")
        thresholds: Any = record.get("thresholds")
        if not _are_thresholds(thresholds):
            raise CheckpointError(f"{folder / RECORD}: thresholds of each output in 'en' and 'zh' are needed")
        encoder = load_encoder(folder, dtype=torch.float32) if (folder / CONFIG).is_file() else None
        tensors = read_tensors(folder / WEIGHTS)
        width = encoder[0].config.width if encoder else 0
        if bool(record.get("encoder")) != bool(encoder):
            raise CheckpointError(f"{folder}: its encoder is missing, or does not belong to it")
        shapes = {"rows": (-1, len(OUTPUTS)), "bias": (len(OUTPUTS),), "factors": (-1,)}
        if width:
            shapes |= {"map": (len(OUTPUTS), width), "vectors.mean": (width,), "vectors.spread": (width,)}
        if tensors.keys() != shapes.keys() or len(tensors["rows"]) != len(tensors["factors"]):
            raise CheckpointError(f"{folder / WEIGHTS}: holds {sorted(tensors)}, where {sorted(shapes)} are needed")
        for name, shape in shapes.items():
            own = tuple(tensors[name].shape)
            if len(own) != len(shape) or any(want not in (-1, have) for want, have in zip(shape, own, strict=True)):
                raise CheckpointError(f"{folder / WEIGHTS}: '{name}' has the shape {own}")
        model = Classifier.Config(len(tensors["rows"]), width).build()
        model.load_state_dict({name: tensors[name] for name, _ in model.named_parameters()})
        centre = (tensors["vectors.mean"].numpy(), tensors["vectors.spread"].numpy()) if width else None
        reader = Reader(tensors["factors"].numpy(), encoder, centre)
        return cls(model, reader, thresholds, record.get("facts"))


_CENTRE = ("mean", "spread")


def _rate(false_positives: float) -> int:
    fitting = [place for place, rate in enumerate(RATES) if rate <= false_positives + 1e-12]
    if not fitting:
        raise GenerationError(f"false_positives is {false_positives}; the strictest threshold is for {RATES[0]}")
    return fitting[-1]


def _are_thresholds(value: Any) -> bool:
    def numbers(row: Any) -> bool:
        return isinstance(row, list) and len(row) == len(RATES) and all(isinstance(x, int | float) for x in row)

    return isinstance(value, dict) and all(
        isinstance(value.get(language), dict) and all(numbers(value[language].get(name)) for name in OUTPUTS)
        for language in ("en", "zh")
    )
