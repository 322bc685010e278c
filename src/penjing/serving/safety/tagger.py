"""Finds what has no form: names, addresses, places, organisations, ages, titles, dates in the middle of a text.

    tagger = Tagger.load("runs/personal/personal/model")
    tagger.find("The letter to Ann Lee arrived in Leeds", [])    # NAME at 14..21, PLACE at 33..38

Each token is read as hashed features (`token_features`), a linear layer makes them scores of labels, and a linear-chain
CRF (`crf`) makes them the best row of labels:

    labels      O, and for each kind  B (begins)  and  I (goes on);  I follows only B or I of its own kind
    e[t, y]     = sum over the features of token t  rows[bucket, y]         e[t, O] also  + caution
    loss        = log Z - score(marked labels), summed over texts, over their tokens

`caution` is what an ordinary word has for itself before anything is seen: with more of it, less is found and less of
that for nothing. A tagger is a folder: `tagger.json` and `tagger.safetensors`. What it cannot read (Chinese, Japanese,
Korean) it leaves to the rules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from penjing.errors import CheckpointError, ConfigError
from penjing.files import atomic_folder, read_json, write_json
from penjing.models.folder import refuse_other_files
from penjing.serving.safety.crf import NEVER, log_partition, row_scores, viterbi
from penjing.serving.safety.findings import Finding
from penjing.serving.safety.token_features import Features, Lexicon, Token, features_of, is_read, tokens_of
from penjing.training.objectives import Loss
from penjing.training.tensor_files import read_tensors, write_tensors

KINDS = ("NAME", "ADDRESS", "PLACE", "ORGANISATION", "AGE", "ZIP", "TITLE", "NATIONALITY", "DATE")
"""What is learned; the rest has a form, and the rules find it better."""
LABELS = ("O", *(begin + kind for kind in KINDS for begin in "BI"))
RECORD, WEIGHTS, FORMAT = "tagger.json", "tagger.safetensors", 1
_WHY = "a tagger"


@dataclass(frozen=True, repr=False)
class Tagged:
    """A text as the tagger sees it; its `repr` tells it from any other."""

    features: Features
    labels: tuple[int, ...] = ()
    """Of each token, where they are known."""

    def __repr__(self) -> str:
        return f"Tagged({[crc32(array.tobytes()) for array in self.features]}, {self.labels})"


@dataclass(frozen=True)
class TaggedBatch:
    """Texts side by side, each with at least one token."""

    tokens: Int[Tensor, " features"]
    """Buckets of all tokens' features."""
    starts: Int[Tensor, " tokens"]
    """Where each token's begin."""
    mask: Bool[Tensor, "texts time"]
    labels: Int[Tensor, "texts time"]
    origin: str = ""

    def to(self, device: torch.device | str) -> "TaggedBatch":
        """The same batch on another device."""
        return replace(
            self, **{name: getattr(self, name).to(device) for name in ("tokens", "starts", "mask", "labels")}
        )


def collate(texts: Sequence[Tagged], origin: str = "") -> TaggedBatch:
    """A batch of some texts."""
    times = [len(text.features[1]) for text in texts]
    mask = torch.arange(max(times))[None, :] < torch.tensor(times)[:, None]
    labels = torch.zeros(mask.shape, dtype=torch.long)
    labels[mask] = torch.tensor([label for text in texts for label in text.labels], dtype=torch.long)
    offsets = np.cumsum([0, *(len(text.features[0]) for text in texts[:-1])])
    starts = [text.features[1] + offset for text, offset in zip(texts, offsets, strict=True)]
    ids = np.concatenate([text.features[0] for text in texts])
    return TaggedBatch(torch.from_numpy(ids), torch.from_numpy(np.concatenate(starts)), mask, labels, origin)


class TaggerModel(nn.Module):
    """Scores of labels and of their neighbourhood. All weights start as zeros."""

    forbidden: Tensor
    shared: Tensor

    @dataclass(frozen=True)
    class Config:
        """What a tagger is."""

        buckets: int = 2**16
        dropout: float = 0.0
        """The share of features that are not seen in training, so that no word alone decides."""

        def build(self) -> "TaggerModel":
            """The model."""
            return TaggerModel(self)

    def __init__(self, config: Config):
        super().__init__()
        if config.buckets < 1 or not 0 <= config.dropout < 1:
            raise ConfigError(f"{config.buckets} buckets and a dropout of {config.dropout} cannot be")
        self.config = config
        self.rows = nn.Parameter(torch.zeros(config.buckets, len(LABELS) + 2))
        self.steps = nn.Parameter(torch.zeros(len(LABELS), len(LABELS)))
        self.register_buffer("forbidden", forbidden(), persistent=False)
        self.register_buffer("shared", shared(), persistent=False)

    def forward(self, batch: TaggedBatch) -> Float[Tensor, "texts time labels"]:
        """Emissions in float32; zeros where the mask leaves out."""
        seen = F.dropout(torch.ones(len(batch.tokens), device=self.rows.device), self.config.dropout, self.training)
        scores = (
            F.embedding_bag(batch.tokens, self.rows, batch.starts, mode="sum", per_sample_weights=seen) @ self.shared
        )
        return scores.new_zeros(*batch.mask.shape, len(LABELS)).masked_scatter(batch.mask[:, :, None], scores)

    def transitions(self) -> Float[Tensor, "labels labels"]:
        """From a label to the next one; nothing goes on that has not begun."""
        return self.steps + self.forbidden


def shared() -> Float[Tensor, "columns labels"]:
    """What each column of a row counts for: one for each label, then one for all B and one for all I."""
    together = [[float(name[0] == begin) for name in LABELS] for begin in "BI"]
    return torch.cat([torch.eye(len(LABELS)), torch.tensor(together)])


def forbidden() -> Float[Tensor, "labels labels"]:
    """0 where a label may follow another, else `NEVER`."""
    follows = [[b[0] != "I" or a[1:] == b[1:] for b in LABELS] for a in LABELS]
    return torch.where(torch.tensor(follows), 0.0, NEVER)


@dataclass(frozen=True)
class Tagging:
    """The objective: nats of a text's marked labels, a mean over tokens."""

    def __call__(self, model: TaggerModel, batch: TaggedBatch) -> Loss:
        """The loss."""
        emissions, transitions = model(batch), model.transitions()
        log_z = log_partition(emissions, transitions, batch.mask)
        total = (log_z - row_scores(emissions, transitions, batch.mask, batch.labels)).sum()
        return Loss(total, int(batch.mask.sum()))


def labels_of(tokens: Sequence[Token], spans: Sequence[Finding]) -> tuple[int, ...]:
    """The labels that marked spans give to tokens; spans of kinds that are not learned are ordinary text.

    Pieces of an address that follow each other are one address.
    """
    labels = [0] * len(tokens)
    for span in sorted(spans, key=lambda span: span.start):
        if span.kind not in KINDS:
            continue
        begin = 1 + 2 * KINDS.index(span.kind)
        inside = [t for t, one in enumerate(tokens) if one.start < span.end and span.start < one.end and not one.kind]
        for t in inside:
            goes_on = t > inside[0] or (span.kind == "ADDRESS" and t > 0 and labels[t - 1] in (begin, begin + 1))
            labels[t] = begin + goes_on
    return tuple(labels)


def spans_of(tokens: Sequence[Token], labels: Sequence[int]) -> list[Finding]:
    """The spans that a row of labels marks."""
    found: list[Finding] = []
    for token, label in zip(tokens, labels, strict=True):
        name = LABELS[label]
        if name[0] == "B":
            found.append(Finding(name[1:], token.start, token.end, _WHY))
        elif name[0] == "I":
            found[-1] = replace(found[-1], end=token.end)
    return found


class Tagger:
    """A trained model with its lexicon; safe to use from several threads.

    Args:
        model: trained.
        lexicon: that it was trained with.
        caution: nats that "ordinary" has for itself.
        facts: what else the record says: what it was trained on, and how it did.
    """

    kinds = frozenset(KINDS)
    """What it looks for."""

    def __init__(
        self, model: TaggerModel, lexicon: Lexicon, *, caution: float = 0.0, facts: Mapping[str, Any] | None = None
    ):
        self.model, self.lexicon, self.caution, self.facts = model, lexicon, caution, dict(facts or {})
        self._rows = (model.rows.detach() @ model.shared).numpy()
        self._steps = model.transitions().detach().numpy()
        self._first = np.array([NEVER if name[0] == "I" else 0.0 for name in LABELS], np.float32)

    def read(self, text: str, tokens: Sequence[Token], unsure: Sequence[Finding]) -> Features:
        """A text's features as this tagger's model has them."""
        return features_of(text, tokens, unsure, self.lexicon, self.model.config.buckets)

    def find(self, text: str, rules: Sequence[Finding]) -> list[Finding]:
        """What the tagger finds, in the order of the text, apart from what the rules are sure of.

        Args:
            text: any.
            rules: what the rules found in it, none overlapping; those of kinds that are learned are hints, no more.
        """
        tokens = tokens_of(text, [one for one in rules if one.kind not in KINDS])
        if not tokens:
            return []
        ids, starts = self.read(text, tokens, [one for one in rules if one.kind in KINDS])
        emissions = np.add.reduceat(self._rows[ids], starts)  # (tokens, labels)
        emissions[:, 0] += self.caution
        emissions[0] += self._first
        fixed = [t for t, one in enumerate(tokens) if one.kind or not is_read(text[one.start : one.end])]
        emissions[fixed, 1:] = NEVER
        return spans_of(tokens, viterbi(emissions, self._steps))

    def save(self, folder: str | Path) -> None:
        """Writes the folder, whole or not at all.

        Raises:
            CheckpointError: it holds files but no tagger, or cannot be written.
        """
        folder = Path(folder)
        refuse_other_files(folder, RECORD, "tagger")
        hashes, classes = self.lexicon.arrays()
        tensors = {"rows": self.model.rows.detach(), "steps": self.model.steps.detach()}
        tensors |= {"lexicon.hashes": torch.from_numpy(hashes), "lexicon.classes": torch.from_numpy(classes)}
        record = {"format": FORMAT, "kinds": list(KINDS), "caution": self.caution, "facts": self.facts}
        with atomic_folder(folder) as temporary:
            write_tensors(temporary / WEIGHTS, tensors)
            write_json(temporary / RECORD, record)

    @classmethod
    def load(cls, path: str | Path) -> "Tagger":
        """The tagger in a folder.

        Raises:
            CheckpointError: it is missing, damaged, or of a form that this version does not read.
        """
        folder = Path(path)
        record = read_json(folder / RECORD, CheckpointError)
        if not isinstance(record, dict) or record.get("format") != FORMAT or record.get("kinds") != list(KINDS):
            raise CheckpointError(f"{folder / RECORD}: not a tagger of format {FORMAT} with these kinds; train it anew")
        caution = record.get("caution")
        if not isinstance(caution, int | float) or not isinstance(record.get("facts"), dict):
            raise CheckpointError(f"{folder / RECORD}: 'caution' must be a number and 'facts' a table")
        tensors = read_tensors(folder / WEIGHTS)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        buckets, words = (shapes.get(name, (0,))[0] for name in ("rows", "lexicon.hashes"))
        wide = len(LABELS)
        wanted = {
            "rows": (buckets, wide + 2),
            "steps": (wide, wide),
            "lexicon.hashes": (words,),
            "lexicon.classes": (words,),
        }
        if shapes != wanted or buckets < 1:
            raise CheckpointError(f"{folder / WEIGHTS}: holds {shapes}, where {wanted} are needed")
        if not all(bool(tensors[name].isfinite().all()) for name in ("rows", "steps")):
            raise CheckpointError(f"{folder / WEIGHTS}: weights that are no numbers; train it anew")
        model = TaggerModel.Config(buckets).build()
        model.load_state_dict({name: tensors[name].float() for name in ("rows", "steps")})
        hashes, classes = (tensors[f"lexicon.{name}"].tolist() for name in ("hashes", "classes"))
        if any(not 0 <= number < Lexicon.CLASSES for number in classes):
            raise CheckpointError(f"{folder / WEIGHTS}: 'lexicon.classes' has numbers that are no classes")
        return cls(model, Lexicon(dict(zip(hashes, classes, strict=True))), caution=caution, facts=record["facts"])
