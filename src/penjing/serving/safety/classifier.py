r"""The model that judges texts: a bag of pieces beside an encoder's vector, one probability for each category.

    logit = b  +  sum over pieces  weight(piece) * row[bucket(piece)]  +  W (v - mean) / (spread * sqrt(width))
    p     = sigmoid(logit)                                   8 categories, and "harmful": any of them, judged or not

The bag (`bag`) knows words, the encoder's vector v of the whole text (a sentence encoder's, which is not trained)
knows what they mean together; each is right where the other is wrong. An encoder says nothing of a text whose
characters it cannot read: v is then the mean, and adds nothing.

What is not judged is not learned: of each text, the loss is

    - sum over what is known of  log p(known)   - log (1 - prod over "one of these" (1 - p_c))   - log p(harmful or not)

Sources: Cheng et al., "Wide & Deep Learning for Recommender Systems", 2016, arXiv:1606.07792, section 3 (a linear model
of pieces beside a deep one, trained together); the second term is a noisy or: Pearl, "Probabilistic Reasoning in
Intelligent Systems", 1988, section 4.3.2.
Departs from the first: the deep part is a trained encoder that is left as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from penjing.errors import ConfigError
from penjing.serving.safety.bag import Bag, collate_bags
from penjing.serving.safety.samples import CATEGORIES, Sample
from penjing.training.objectives import Loss

OUTPUTS = (*CATEGORIES, "harmful")
"""What there is a probability of."""


@dataclass(frozen=True, repr=False)
class Read:
    """A text as the classifier sees it; its `repr` tells it from any other."""

    bag: Bag
    vector: Float[np.ndarray, " width"]
    """The encoder's, in units of its spread; zeros where it cannot read the text. Of no length without an encoder."""
    labels: tuple[int, ...] = ()
    """For each output 1 or 0, or -1 where it is not known."""
    either: tuple[bool, ...] = ()
    """For each category, whether it is one of which at least one holds."""

    def __repr__(self) -> str:
        ids, weights = self.bag
        sums = [crc32(array.tobytes()) for array in (ids, weights, self.vector)]
        return f"Read({sums}, {self.labels}, {self.either})"


def read(sample: Sample, bag: Bag, vector: Float[np.ndarray, " width"]) -> Read:
    """A judged text as it is learned from."""
    known = [int(sample.labels[name]) if name in sample.labels else -1 for name in CATEGORIES]
    return Read(bag, vector, (*known, int(sample.harmful)), tuple(name in sample.either for name in CATEGORIES))


@dataclass(frozen=True)
class JudgedBatch:
    """Texts side by side."""

    tokens: Int[Tensor, " pieces"]
    """Buckets of all texts' pieces."""
    starts: Int[Tensor, " texts"]
    """Where each text's begin."""
    weights: Float[Tensor, " pieces"]
    vectors: Float[Tensor, "texts width"]
    labels: Int[Tensor, "texts outputs"]
    either: Bool[Tensor, "texts categories"]
    origin: str = ""

    def to(self, device: torch.device | str) -> "JudgedBatch":
        """The same batch on another device."""
        names = ("tokens", "starts", "weights", "vectors", "labels", "either")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def collate(texts: Sequence[Read], origin: str = "") -> JudgedBatch:
    """A batch of some texts."""
    tokens, starts, weights = collate_bags([text.bag for text in texts])
    return JudgedBatch(
        tokens,
        starts,
        weights,
        torch.from_numpy(np.stack([text.vector for text in texts])),
        torch.tensor([text.labels or (-1,) * len(OUTPUTS) for text in texts]),
        torch.tensor([text.either or (False,) * len(CATEGORIES) for text in texts]),
        origin,
    )


class Classifier(nn.Module):
    """Gives each text a logit for each output. Its weights start as zeros."""

    @dataclass(frozen=True)
    class Config:
        """What a classifier is."""

        buckets: int = 2**18
        width: int = 0
        """Numbers of the encoder's vector; 0 without one."""

        def build(self) -> "Classifier":
            """The classifier."""
            return Classifier(self)

    def __init__(self, config: Config):
        super().__init__()
        if config.buckets < 1 or config.width < 0:
            raise ConfigError(f"{config.buckets} buckets and vectors of {config.width} numbers cannot be")
        self.config = config
        self.rows = nn.Parameter(torch.zeros(config.buckets, len(OUTPUTS)))
        self.map = nn.Parameter(torch.zeros(len(OUTPUTS), config.width)) if config.width else None
        self.bias = nn.Parameter(torch.zeros(len(OUTPUTS)))

    def forward(self, batch: JudgedBatch) -> Float[Tensor, "texts outputs"]:
        """Logits in float32."""
        logits = self.bias + F.embedding_bag(
            batch.tokens, self.rows, batch.starts, mode="sum", per_sample_weights=batch.weights
        )
        if self.map is not None:
            logits = logits + batch.vectors @ self.map.T / self.config.width**0.5
        return logits.float()


@dataclass(frozen=True)
class Judgement:
    """The objective: a mean over texts. Batches are `JudgedBatch`es, the model a `Classifier`."""

    def __call__(self, model: Classifier, batch: JudgedBatch) -> Loss:
        """The loss, and how often "harmful" was told right."""
        logits = model(batch)  # (texts, outputs)
        known = batch.labels >= 0
        truth = batch.labels.clamp(min=0).float()
        total = F.binary_cross_entropy_with_logits(logits, truth, known.float(), reduction="sum")
        if bool(batch.either.any()):
            none = -(F.softplus(logits[:, :-1]) * batch.either).sum(dim=1)  # log of the chance that none holds
            some = batch.either.any(dim=1)
            total = total - torch.log1p(-none[some].exp().clamp(max=1 - 1e-6)).sum()
        with torch.no_grad():
            right = ((logits[:, -1] > 0) == truth[:, -1].bool())[known[:, -1]].float().sum()
        return Loss(total, len(batch.labels), {"accuracy": float(right)})


def probabilities(model: Classifier, texts: Sequence[Read], batch: int = 256) -> Float[Tensor, "texts outputs"]:
    """Every output's probability, in the order of the texts."""
    found = [torch.zeros(0, len(OUTPUTS))]
    with torch.no_grad():
        for start in range(0, len(texts), batch):
            found.append(model(collate(texts[start : start + batch])).sigmoid())
    return torch.cat(found)
