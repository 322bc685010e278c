"""Multi-head attention: each token gathers from the tokens that it may see, weighted by how well they match its query.

    weights = softmax(scale * q k^T)        over the visible keys
    y       = (weights v) W_output          all heads side by side

Query heads may share key and value heads in groups (grouped-query attention; one group for all is multi-query),
queries and keys may be normalised per head (QK-norm), a layer may look back `window` tokens only.

Sources: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.2; Ainslie et al., "GQA", 2023,
arXiv:2305.13245; Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023, arXiv:2302.05442,
section 2 (QK-norm); Beltagy et al., "Longformer", 2020, arXiv:2004.05150 (window); Gemma Team, "Gemma 2", 2024,
arXiv:2408.00118 (soft-cap).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from penjing.errors import ConfigError
from penjing.nn import kernels, tiled
from penjing.nn.linear import Linear, initialise_linear, together
from penjing.nn.norms import LayerNorm, OffsetRMSNorm, RMSNorm
from penjing.nn.rope import Rope, rotate
from penjing.nn.sequence import Sequence
from penjing.nn.state import KeyValueState, KVCache

SMALL_CACHE = 2**18  # bfloat16 keys of a cache up to this many numbers are converted on a CPU: its float32 kernels win


class Attention(nn.Module):
    """Causal self-attention. Shapes: `(batch, seq, width)` to the same."""

    joint = ("query", "key", "value")  # maps with the same input
    shares: ClassVar[dict[str, int]] = {"query": 0, "key": 0, "value": 0, "output": 1}
    """How processes divide the weights: a map's outputs (0), or its inputs (1), so that results are to be added up."""

    @dataclass(frozen=True)
    class Config:
        """How the heads are laid out and what is done to them."""

        heads: int
        """Query heads."""
        kv_heads: int | None = None
        """Key and value heads, a divisor of `heads`; None for as many as there are query heads."""
        head_dim: int | None = None
        """Numbers per head; None for width / heads."""
        rope: Rope.Config | None = None
        """Rotary positions; None when positions are added to the embeddings."""
        qk_norm: RMSNorm.Config | LayerNorm.Config | OffsetRMSNorm.Config | None = None
        """Norm of each query and key head before the rotation."""
        joint_qk_norm: bool = False
        """Whether that norm is over all heads side by side (OLMo 2), instead of each by itself."""
        bias: bool = False
        """Whether queries, keys and values have a bias."""
        output_bias: bool = False
        """Whether the output projection has one."""
        window: int | None = None
        """How many of the last keys a query sees, its own included; None for all."""
        scale: float | None = None
        """What scores are multiplied by; None for 1 / sqrt(head_dim)."""
        softcap: float | None = None
        """Scores are kept within this bound: softcap * tanh(score / softcap)."""
        dropout: float = 0.0
        """Chance that a weight is dropped in training."""

        def resolved(self, width: int) -> "Attention.Config":
            """The same with the numbers that follow from others written out."""
            kv_heads = self.heads if self.kv_heads is None else self.kv_heads
            if self.heads < 1 or kv_heads < 1 or self.heads % kv_heads:
                raise ConfigError(f"{self.heads} query heads cannot share {kv_heads} key heads evenly")
            if self.head_dim is None and width % self.heads:
                raise ConfigError(f"width {width} is no multiple of {self.heads} heads; give head_dim")
            if self.window is not None and self.window < 1:
                raise ConfigError(f"window is {self.window}; a query sees at least itself")
            head_dim = width // self.heads if self.head_dim is None else self.head_dim
            scale = head_dim**-0.5 if self.scale is None else self.scale
            return replace(self, kv_heads=kv_heads, head_dim=head_dim, scale=scale)

        def build(self, width: int) -> "Attention":
            """The layer for vectors of `width` numbers."""
            return Attention(self, width)

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.config = config = config.resolved(width)
        self.heads, self.kv_heads = config.heads, cast(int, config.kv_heads)
        self.head_dim, self.scale = cast(int, config.head_dim), cast(float, config.scale)
        self.query = Linear(width, self.heads * self.head_dim, bias=config.bias)
        self.key = Linear(width, self.kv_heads * self.head_dim, bias=config.bias)
        self.value = Linear(width, self.kv_heads * self.head_dim, bias=config.bias)
        self.output = Linear(self.heads * self.head_dim, width, bias=config.output_bias)
        joint = config.joint_qk_norm
        query_size, key_size = (linear.out_features if joint else self.head_dim for linear in (self.query, self.key))
        self.query_norm = config.qk_norm.build(query_size) if config.qk_norm else None
        self.key_norm = config.qk_norm.build(key_size) if config.qk_norm else None
        self.rope = config.rope.build(self.head_dim) if config.rope else None

    def forward(
        self, x: Float[Tensor, "batch seq width"], sequence: Sequence, state: KeyValueState | None = None
    ) -> Float[Tensor, "batch seq width"]:
        """Each token's mixture of what it sees; with a state, also of what came before."""
        projected = together(x, self.query, self.key, self.value)
        query, key, value = (heads.unflatten(-1, (-1, self.head_dim)) for heads in projected)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self._normed(self.query_norm, query), self._normed(self.key_norm, key)
        if self.rope is not None:
            cos, sin = sequence.rotation(self.rope, value.dtype)
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        query, key, value = (heads.transpose(1, 2) for heads in (query, key, value))  # (batch, heads, seq, head_dim)
        attend = self.attend if state is None else partial(state.attend, self)
        mixed = attend(query, key, value, sequence)  # (batch, heads, seq, head_dim)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _normed(self, norm: nn.Module, heads: Float[Tensor, "batch seq heads head_dim"]) -> Tensor:
        if self.config.joint_qk_norm:
            return norm(heads.flatten(2)).to(heads.dtype).view_as(heads)
        return norm(heads).to(heads.dtype)

    def attend(
        self,
        query: Float[Tensor, "batch heads queries head_dim"],
        key: Float[Tensor, "batch kv_heads keys head_dim"],
        value: Float[Tensor, "batch kv_heads keys head_dim"],
        sequence: Sequence,
    ) -> Float[Tensor, "batch heads queries head_dim"]:
        """Each query's mixture of the values whose keys it sees."""
        config = self.config
        dropout = config.dropout if self.training else 0.0
        if config.softcap is not None:
            visible = sequence.mask(config.window)
            return kernels.reference(query, key, value, visible, self.scale, config.softcap, dropout)
        if not dropout and (starts := tiled.starts_for(query, key, value, sequence, config.window)) is not None:
            return tiled.attend(query, key, value, starts, self.scale)
        if query.device.type == "cpu" and query.dtype == torch.bfloat16:
            if sequence.start and (key.numel() < SMALL_CACHE or sequence.queries > kernels.BLOCK):
                return self._fused(query.float(), key.float(), value.float(), sequence, dropout).to(query.dtype)
            bias = sequence.bias(query.dtype, config.window)
            if sequence.start == 0 and bias is not None and not dropout and not sequence.bidirectional:
                return kernels.blocked(query, key, value, bias, self.scale)
            return kernels.products(query, key, value, bias, self.scale, dropout)
        return self._fused(query, key, value, sequence, dropout)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, sequence: Sequence, dropout: float) -> Tensor:
        causal = sequence.is_causal(self.config.window)
        visible = None if causal else sequence.mask(self.config.window)
        return kernels.fused(query, key, value, visible, causal, self.scale, dropout)

    def new_state(self, batch: int, capacity: int, *, dtype: torch.dtype, device: torch.device) -> KVCache:
        """An empty cache for `batch` rows."""
        return KVCache(batch, self.kv_heads, self.head_dim, capacity, dtype=dtype, device=device)

    def initialise(self, generator: torch.Generator, std: float, output_std: float) -> None:
        """Projections from N(0, std^2), the one that writes to the residual stream from N(0, output_std^2)."""
        for linear in (self.query, self.key, self.value):
            initialise_linear(linear, std, generator)
        initialise_linear(self.output, output_std, generator)
