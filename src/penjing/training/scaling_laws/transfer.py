"""muP: learning rates found on a narrow model, fitted to a wide one of the same kind.

With the usual initial weights and one learning rate for all, a wider model takes larger steps in what it computes, and
the best learning rate moves as it grows. In the maximal update parametrization every layer's activations, and their
change in a step, keep their size whatever the width, and the best learning rate stays where it is. With r = fan_in /
fan_in of the tuned model, the factors on what the tuned model has are

    weights                             AdamW's rate   Muon's rate   initial standard deviation
    embeddings, positions, vectors      1              (AdamW)       1
    hidden matrices                     1 / r          see below     1 / sqrt(r)
    the head                            1 / r          (AdamW)       1 / r

A Muon update of a matrix has all singular values equal: 0.2 sqrt(max(fan_in, fan_out)) times the learning rate. The
change of a layer keeps its size if they go with sqrt(fan_out / fan_in), so that is what the rate is brought to; where
both sides grow alike it is a factor of 1 / sqrt(r). Decay is divided by a rate's factor: a step shrinks a weight by as
much as before.

Models keep no multiplier, so that a trained one is a checkpoint like any other. Where muP has one, an equal
parametrization is used: what computes with theta W, W starting as s and learning at rate l, is under AdamW and under
Muon what computes with W, starting as theta s and learning at rate theta l (its "abc symmetry"; only AdamW's eps is
not in it). So three multipliers go into weights that are there anyway:

- A head tied to the embedding would multiply logits by 1 / r: the gain of the norm before it starts as 1 / r and
  learns at 1 / r. A head of its own starts and learns at 1 / r itself.
- Scores of attention would be divided by head_dim, not its square root: queries (the gain of their norm, if they have
  one) take the quotient. It is 1 as long as a wider model has more heads, not larger ones.
- What a model multiplies its embeddings by, where that changes with width (Gemma), is taken back in the embedding.

What it does not cover: batch, number of steps and vocabulary, with which the best rate moves too; and depth. A model
divides the initial weights that write to the residual stream by the square root of its layers, as depth-muP does
(arXiv:2310.02244), but no learning rate follows depth: those rules are for blocks of a single layer.

Sources: Yang et al., "Tensor Programs V", 2022, arXiv:2203.03466, tables 3 and 8; Yang,
Simon, Bernstein, "A Spectral Condition for Feature Learning", 2023, arXiv:2310.17813, condition 1 (for Muon).
Departs from them: the head starts at random, not as zero.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from penjing.errors import ConfigError
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.norms import OffsetRMSNorm
from penjing.training.adamw import AdamW
from penjing.training.muon import Muon, hidden_matrices, update_scale


@dataclass(frozen=True)
class Factors:
    """What is done to one parameter, as factors on what the tuned model has."""

    adamw: float = 1.0
    """On AdamW's learning rate."""
    muon: float | None = None
    """On Muon's learning rate; None for what Muon leaves to AdamW."""
    initial: float = 1.0
    """On the initial weight."""

    def times(self, factor: float) -> "Factors":
        """With another factor folded into the weight."""
        muon = None if self.muon is None else self.muon * factor
        return Factors(self.adamw * factor, muon, self.initial * factor)


@dataclass(frozen=True)
class Transfer:
    """Factors for each parameter of a model, by name."""

    factors: dict[str, Factors]

    def optimizer(self, tuned: AdamW.Config | Muon.Config) -> AdamW.Config | Muon.Config:
        """The optimizer found best for the tuned model, for this one."""
        adamw = {name: each.adamw for name, each in self.factors.items() if each.adamw != 1}
        if isinstance(tuned, AdamW.Config):
            return replace(tuned, rates=adamw)
        muon = {name: each.muon for name, each in self.factors.items() if each.muon not in (None, 1)}
        others = {name: factor for name, factor in adamw.items() if self.factors[name].muon is None}
        return replace(tuned, rates=muon, adamw=replace(tuned.adamw, rates=others))

    @torch.no_grad()
    def scale(self, model: LanguageModel) -> None:
        """Multiplies the weights of a model that was just initialised by their factors, in place.

        Raises:
            ConfigError: it is not the model that the factors are for.
        """
        weights = dict(model.named_parameters())
        if weights.keys() != self.factors.keys():
            raise ConfigError("these factors are for another model: its parameters have other names")
        offset = {id(norm.weight) for norm in model.modules() if isinstance(norm, OffsetRMSNorm)}
        for name, each in self.factors.items():
            weight = weights[name]
            if each.initial != 1:
                # an offset norm's gain is 1 + weight
                weight.mul_(each.initial).add_(each.initial - 1 if id(weight) in offset else 0)


def transfer(tuned: LanguageModel.Config, wanted: LanguageModel.Config) -> Transfer:
    """How learning rates and initial weights of a tuned model are to be changed for a wider (or narrower) one.

    Args:
        tuned: the model whose learning rates are known. If it has fewer layers, they stand for the others in turn.
        wanted: the model to train.

    Raises:
        ConfigError: the two are not of one kind, or have weights that there is no rule for.
    """
    with torch.device("meta"):
        before, after = tuned.build(), wanted.build()
    known = dict(before.named_parameters())
    tables = {id(module.weight) for module in after.modules() if isinstance(module, nn.Embedding)}
    hidden = hidden_matrices(after)
    folded = dict(_folded(before, after))
    factors = {}
    for name, weight in after.named_parameters():
        small = known.get(_counterpart(name, len(before.blocks)))
        if small is None or small.ndim != weight.ndim:
            raise ConfigError(f"learning rates do not carry over to another kind of model: only one has '{name}'")
        own = Factors()
        if name in hidden:
            own = _hidden(tuple(small.shape), tuple(weight.shape))
        elif weight.ndim == 2 and id(weight) not in tables:  # the head
            ratio = small.shape[1] / weight.shape[1]
            own = Factors(adamw=ratio, initial=ratio)
        elif weight.ndim > 2:
            raise ConfigError(f"muP has no rule here for '{name}', which has {weight.ndim} dimensions")
        factors[name] = own.times(folded.get(name, 1.0))
    return Transfer(factors)


def _hidden(before: tuple[int, ...], after: tuple[int, ...]) -> Factors:
    """Of a matrix between vectors that both grow with width; shapes are (fan_out, fan_in)."""

    def singular(shape: tuple[int, ...]) -> float:
        """Learning rate of Muon for which an update is as large as it should be, but for a constant."""
        fan_out, fan_in = shape
        return math.sqrt(fan_out / fan_in) / update_scale(fan_out, fan_in)

    ratio = after[1] / before[1]
    return Factors(adamw=1 / ratio, muon=singular(after) / singular(before), initial=ratio**-0.5)


def _counterpart(name: str, layers: int) -> str:
    """The name of the tuned model's parameter that stands for this one."""
    parts = name.split(".")
    if parts[0] == "blocks" and layers:
        parts[1] = str(int(parts[1]) % layers)
    return ".".join(parts)


def _folded(before: LanguageModel, after: LanguageModel) -> Iterator[tuple[str, float]]:
    """Multipliers of muP, with the parameters that take them."""
    embedding = before.config.embedding_scale / after.config.embedding_scale
    yield "embedding.weight", embedding
    if after.config.tied:
        for name, _ in after.norm.named_parameters():
            yield f"norm.{name}", before.config.width / after.config.width / embedding
    for index, block in enumerate(after.blocks):
        mixer = block.mixer
        old = before.blocks[index % len(before.blocks)].mixer if len(before.blocks) else None
        if isinstance(mixer, Attention) and isinstance(old, Attention):
            scores = old.scale * old.head_dim / (mixer.scale * mixer.head_dim)
            where = "query" if mixer.query_norm is None else "query_norm"
            for name, _ in getattr(mixer, where).named_parameters():
                yield f"blocks.{index}.mixer.{where}.{name}", scores
