"""Rotary position embedding: a query and a key are turned by angles that grow with their positions.

The first half of a head's numbers are the real parts, the second half the imaginary parts, of `dim / 2` complex
numbers. Number `k` of a token at position `p` is multiplied by `exp(i p f_k)` with the frequency

    f_k = theta^(-2 k / dim)

so that the product of a query and a key depends on the distance between them alone. To serve texts longer than those
it was trained on, a model's frequencies are lowered; each way of doing so is a class here, and computes what
transformers computes.

Sources: Su et al., "RoFormer", 2021, arXiv:2104.09864, section 3.4; Chen et al., "Extending Context Window of Large
Language Models via Positional Interpolation", 2023, arXiv:2306.15595 (linear); Peng et al., "YaRN", 2023,
arXiv:2309.00071, section 3 (NTK-aware, dynamic, YaRN); Grattafiori et al., "The Llama 3 Herd of Models", 2024,
arXiv:2407.21783 (llama3); Ding et al., "LongRoPE", 2024, arXiv:2402.13753, section 3 (longrope). Departs from them:
the pairs are (k, k + dim / 2), as in transformers' checkpoints, not (2 k, 2 k + 1).
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from penjing.errors import ConfigError
from penjing.nn import passes


def frequencies(theta: float, dim: int) -> Float[Tensor, " half"]:
    """The unscaled frequencies `theta^(-2k/dim)`, float32, on the CPU."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim
    return 1.0 / theta**exponents


class Scaling(Protocol):
    """A way of lowering frequencies.

    Attributes:
        by_length: whether the frequencies depend on the length of the text at hand.
    """

    by_length: ClassVar[bool]

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by; scores grow by its square."""

    def scale(self, theta: float, dim: int, length: int | None) -> Float[Tensor, " half"]:
        """The frequencies for texts of `length` tokens (None: not known)."""


@dataclass(frozen=True)
class LinearScaling:
    """Every frequency divided by `factor`: positions are squeezed into the trained range."""

    factor: float
    """Longest text over trained context."""
    attention_factor: ClassVar[float] = 1.0
    by_length: ClassVar[bool] = False

    def scale(self, theta: float, dim: int, length: int | None) -> Float[Tensor, " half"]:
        """All frequencies lowered alike."""
        return frequencies(theta, dim) / self.factor


def ntk_theta(theta: float, dim: int, factor: float) -> float:
    """NTK-aware scaling: the base that lowers the lowest frequency `factor` times and leaves the highest alone.

    It needs no class of its own: `Rope.Config(theta=ntk_theta(10_000, 64, 4))` is a model like any other.
    """
    return theta * factor ** (dim / (dim - 2))


@dataclass(frozen=True)
class DynamicScaling:
    """NTK-aware scaling by just as much as the text at hand needs; none within the trained context.

    With a cache, keys keep the rotation of the step that wrote them, as in transformers; so beyond the trained context
    a cached pass differs from an uncached one. All other scalings are exact in both.
    """

    factor: float
    """How steeply the scaling grows with the length."""
    original_context: int
    """The trained context."""
    attention_factor: ClassVar[float] = 1.0
    by_length: ClassVar[bool] = True

    def scale(self, theta: float, dim: int, length: int | None) -> Float[Tensor, " half"]:
        """The frequencies for a text of `length` tokens."""
        stretch = self.factor * max(length or 0, self.original_context) / self.original_context - (self.factor - 1)
        return frequencies(ntk_theta(theta, dim, stretch), dim)


@dataclass(frozen=True)
class YarnScaling:
    """High frequencies kept, low ones divided by `factor`, a linear ramp between; scores are sharpened a little."""

    factor: float
    """Longest text over trained context."""
    original_context: int
    """The trained context."""
    beta_fast: float = 32.0
    """Turns within the trained context above which a frequency is kept."""
    beta_slow: float = 1.0
    """Turns within the trained context below which a frequency is divided by `factor`."""
    attention: float | None = None
    """The attention factor; None takes 0.1 ln(factor) + 1, or the quotient that the two `mscale` give."""
    mscale: float | None = None
    """Weight of ln(factor) in the attention factor's numerator (DeepSeek)."""
    mscale_all_dim: float | None = None
    """Weight of ln(factor) in its denominator."""
    truncate: bool = True
    """Whether the ramp begins and ends at whole indices."""
    by_length: ClassVar[bool] = False

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.attention is not None:
            return self.attention
        if self.mscale and self.mscale_all_dim:
            return self._sharpness(self.mscale) / self._sharpness(self.mscale_all_dim)
        return self._sharpness(1.0)

    def scale(self, theta: float, dim: int, length: int | None) -> Float[Tensor, " half"]:
        """Kept at the fast end, interpolated at the slow end."""
        low, high = self._index(self.beta_fast, theta, dim), self._index(self.beta_slow, theta, dim)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        steps = torch.arange(dim // 2, dtype=torch.float32, device="cpu")
        kept = 1 - ((steps - low) / (high - low if high != low else 0.001)).clamp(0, 1)  # 1 fast ... 0 slow
        powers = theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
        return 1.0 / (self.factor * powers) * (1 - kept) + 1.0 / powers * kept

    def _index(self, turns: float, theta: float, dim: int) -> float:
        """The (fractional) index of the frequency that makes `turns` turns within the trained context."""
        return dim * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    def _sharpness(self, weight: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * weight * math.log(self.factor) + 1.0


@dataclass(frozen=True)
class Llama3Scaling:
    """Short wavelengths kept, long ones divided by `factor`, those between blended smoothly."""

    factor: float
    """What long wavelengths are stretched by."""
    low_freq_factor: float
    """Wavelengths above `original_context / low_freq_factor` are long."""
    high_freq_factor: float
    """Wavelengths below `original_context / high_freq_factor` are short."""
    original_context: int
    """The trained context."""
    attention_factor: ClassVar[float] = 1.0
    by_length: ClassVar[bool] = False

    def scale(self, theta: float, dim: int, length: int | None) -> Float[Tensor, " half"]:
        """Kept at the fast end, interpolated at the slow end."""
        plain = frequencies(theta, dim)
        turns = self.original_context / (2 * math.pi / plain)
        kept = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return (1 - kept) * plain / self.factor + kept * plain


@dataclass(frozen=True)
class LongRopeScaling:
    """Each frequency divided by a number of its own, found by search; texts beyond the trained context have others.

    Which are taken, the longest text of the batch decides. As what deeper layers wrote into a cache depends on it too,
    `LanguageModel` reads a text again that outgrows the trained context in a cache, as transformers' Phi-3 does; so a
    cached pass equals an uncached one.
    """

    short: tuple[float, ...]
    """What each frequency is divided by within the trained context."""
    long: tuple[float, ...]
    """What each frequency is divided by beyond it."""
    factor: float
    """Longest text over trained context."""
    original_context: int
    """The trained context."""
    attention: float | None = None
    """The attention factor; None takes sqrt(1 + ln(factor) / ln(original_context))."""
    by_length: ClassVar[bool] = True

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by, whatever the text's length."""
        if self.attention is not None:
            return self.attention
        return 1.0 if self.factor <= 1 else math.sqrt(1 + math.log(self.factor) / math.log(self.original_context))

    def is_long(self, length: int) -> bool:
        """Whether a text of `length` tokens is beyond the trained context."""
        return length > self.original_context

    def scale(self, theta: float, dim: int, length: int | None) -> Float[Tensor, " half"]:
        """The frequencies for a text of `length` tokens.

        Raises:
            ConfigError: the factors are not one for each pair of numbers, or the trained context is a single token.
        """
        if not len(self.short) == len(self.long) == dim // 2:
            raise ConfigError(
                f"LongRoPE has {len(self.short)} short and {len(self.long)} long factors; "
                f"heads that turn {dim} numbers need {dim // 2} of each"
            )
        if self.original_context < 2:
            raise ConfigError("LongRoPE's original_context is 1; a trained context has at least 2 tokens")
        factors = self.long if length is not None and self.is_long(length) else self.short
        powers = theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
        return 1.0 / (torch.tensor(factors, dtype=torch.float32, device="cpu") * powers)


class Rope(nn.Module):
    """Cosines and sines of a head's rotation at given positions. It has no weights and no buffers.

    Shapes: positions `(rows, queries)`; cosines and sines `(rows, queries, dim)`, both halves alike, but for the sign
    of the sines, whose first half is negated.
    """

    @dataclass(frozen=True)
    class Config:
        """How a head is rotated."""

        theta: float = 10_000.0
        """The base of the frequencies: larger turns more slowly and reaches further."""
        scaling: Scaling | None = None
        """How frequencies are lowered for long texts."""
        fraction: float = 1.0
        """The part of each head, from its first number on, that is rotated."""

        def build(self, head_dim: int) -> "Rope":
            """The rotation of heads of `head_dim` numbers."""
            return Rope(self, head_dim)

    def __init__(self, config: Config, head_dim: int):
        super().__init__()
        self.config = config
        self.dim = int(head_dim * config.fraction)
        if self.dim < 2 or self.dim % 2 or self.dim > head_dim:
            raise ConfigError(
                f"rotary embedding turns pairs of numbers, but {self.dim} of the head's {head_dim} are asked"
            )
        self.frequencies = self._at(None)  # a plain attribute: casting the model to bfloat16 must not round it

    def forward(
        self, positions: Int[Tensor, "rows queries"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "rows queries dim"], Float[Tensor, "rows queries dim"]]:
        """Cosines and sines at `positions`, computed in float32."""
        if self.config.scaling is not None and self.config.scaling.by_length:
            self.frequencies = self._at(int(positions.max()) + 1)
        if self.frequencies.device != positions.device:
            self.frequencies = self.frequencies.to(positions.device)
        angles = positions[..., None].float() * self.frequencies  # (rows, queries, dim / 2)
        cos, sin = angles.cos(), angles.sin()
        if self.config.scaling is not None and self.config.scaling.attention_factor != 1:
            cos, sin = cos * self.config.scaling.attention_factor, sin * self.config.scaling.attention_factor
        return torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype)

    def _at(self, length: int | None) -> Float[Tensor, " half"]:
        if self.config.scaling is None:
            return frequencies(self.config.theta, self.dim)
        return self.config.scaling.scale(self.config.theta, self.dim, length)


def rotate(
    x: Float[Tensor, "batch seq heads head_dim"],
    cos: Float[Tensor, "rows seq dim"],
    sin: Float[Tensor, "rows seq dim"],
) -> Float[Tensor, "batch seq heads head_dim"]:
    """Turns the first `dim` numbers of each head: (a + ib) exp(i angle), a and b being the two halves.

    `cos` and `sin` are as `Rope` gives them, the first half of `sin` negated, so that the product is

        [a, b] cos + [b, a] sin  =  [a cos - b sin, b cos + a sin]
    """
    cos, sin, dim = cos[:, :, None], sin[:, :, None], cos.shape[-1]  # (rows, seq, 1, dim)
    turn = _Rotation.apply if x.requires_grad else _turn
    if dim == x.shape[-1]:
        return turn(x, cos, sin)
    return torch.cat([turn(x[..., :dim], cos, sin), x[..., dim:]], dim=-1)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int = 1) -> Tensor:
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin, value=direction)


class _Rotation(torch.autograd.Function):
    """The rotation and, as its gradient, the rotation back: half the passes over memory that autograd would make."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return passes.rotate(x, cos, sin, 1) if passes.serves(x, cos, sin) else _turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        if passes.serves(grad, cos, sin):
            return passes.rotate(grad, cos, sin, -1), None, None
        return _turn(grad, cos, sin, direction=-1), None, None
