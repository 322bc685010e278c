"""Context parallelism: each process has a piece of every row's tokens, and keys and values go round in a ring.

    for each step: attend to the keys at hand, while they travel on to the next process and others arrive
    out, lse = merge of the parts:   lse = log(e^lse_1 + e^lse_2),   out = e^(lse_1 - lse) out_1 + e^(lse_2 - lse) out_2

An attention layer thus never holds more than two pieces' keys, and its result is exact. The backward pass goes round
once more, with the gradients of the keys travelling along until they are home.

With causal attention the process with the last piece would work all the time and that with the first one hardly, so a
row is cut into twice as many chunks as there are processes, and process r has chunks r and 2n - 1 - r.

Sources: Liu et al., "Ring Attention with Blockwise Transformers", 2023, arXiv:2310.01889, section 3; the merge: Dao et
al., "FlashAttention", 2022, arXiv:2205.14135, section 3.1; chunks from both ends: Llama Team, "The Llama 3 Herd of
Models", 2024, arXiv:2407.21783, section 3.3.2.
Departs from them: documents packed into a row are masked, and soft-caps and sliding windows work.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from penjing.data.batch import TokenBatch
from penjing.errors import ConfigError
from penjing.models.language_model import LanguageModel
from penjing.nn.attention import Attention
from penjing.nn.sequence import Sequence, positions_in_documents


@dataclass(frozen=True)
class Ring:
    """The processes among which rows are cut up, and which pieces are whose."""

    group: dist.ProcessGroup
    rank: int
    size: int

    @classmethod
    def of(cls, group: dist.ProcessGroup) -> "Ring":
        """The ring of a group's processes."""
        return cls(group, dist.get_rank(group), dist.get_world_size(group))

    def chunks(self, rank: int) -> tuple[int, int]:
        """The chunks of a process, of `2 * size` in a row."""
        return rank, 2 * self.size - 1 - rank

    def piece(self, x: Tensor, dim: int = 1) -> Tensor:
        """This process's piece of something that has a whole row's tokens."""
        chunks = x.chunk(2 * self.size, dim)
        return torch.cat([chunks[index] for index in self.chunks(self.rank)], dim)

    def travel(self, x: Tensor) -> "_Travel":
        """Sends `x` to the next process, and begins to receive the previous one's."""
        received = torch.empty_like(x)
        following, before = (self._global(self.rank + step) for step in (1, -1))
        operations = [
            dist.P2POp(dist.isend, x, following, self.group),
            dist.P2POp(dist.irecv, received, before, self.group),
        ]
        return _Travel(received, dist.batch_isend_irecv(operations), x)

    def _global(self, rank: int) -> int:
        return dist.get_global_rank(self.group, rank % self.size)


@dataclass
class _Travel:
    received: Tensor
    works: list[dist.Work]
    sent: Tensor
    """Kept, lest its memory be used again while it is under way."""

    def arrive(self) -> Tensor:
        for work in self.works:
            work.wait()
        return self.received


class RingSequence(Sequence):
    """A piece of each row; `documents` and the chunk length of the whole ones tell who sees whom."""

    def __init__(self, positions: Tensor, documents: Tensor | None, chunk: int):
        super().__init__(positions, 0, None)
        self.whole_documents = documents
        self.chunk = chunk

    def visible(self, queries: int, keys: int, window: int | None) -> Tensor | None:
        """What a chunk's queries see of a chunk's keys, `(rows, 1, 1, chunk, chunk)`; None for all of it."""
        near = window is not None and (queries - keys + 1) * self.chunk > window
        if queries > keys and self.whole_documents is None and not near:
            return None
        index = torch.arange(self.chunk, device=self.positions.device)
        distance = (queries * self.chunk + index)[:, None] - (keys * self.chunk + index)[None]
        visible = distance >= 0
        if window is not None:
            visible &= distance < window
        visible = visible[None]
        if self.whole_documents is not None:
            documents = self.whole_documents.split(self.chunk, 1)
            visible = visible & (documents[queries][:, :, None] == documents[keys][:, None, :])
        return visible[:, None, None]


def cut(batch: TokenBatch, ring: Ring) -> tuple[TokenBatch, RingSequence]:
    """This process's piece of a batch, and the sequence that attention needs."""
    seq = batch.tokens.shape[1]
    positions = batch.positions
    if positions is None and batch.documents is not None:
        positions = positions_in_documents(batch.documents)
    if positions is None:
        positions = torch.arange(seq, device=batch.tokens.device)[None]
    own = replace(batch, positions=positions).changed(ring.piece)
    assert own.positions is not None
    return own, RingSequence(own.positions, batch.documents, seq // (2 * ring.size))


def join(model: LanguageModel, ring: Ring) -> None:
    """Makes every attention layer of the model attend to the whole ring.

    Raises:
        ConfigError: a layer mixes tokens by other means, or drops attention weights.
    """
    for name, block in model.blocks.named_children():
        mixer = getattr(block, "mixer", None)
        if not isinstance(mixer, Attention):
            raise ConfigError(f"context parallelism knows attention only; block {name} has {type(mixer).__name__}")
        if mixer.config.dropout:
            raise ConfigError("context parallelism has no dropout of attention weights; set dropout to 0")
        mixer.__dict__["attend"] = partial(_attend, mixer, ring)


def _attend(layer: Attention, ring: Ring, query: Tensor, key: Tensor, value: Tensor, sequence: RingSequence) -> Tensor:
    """`Attention.attend` of a piece of the queries over all keys."""
    grouped = query.unflatten(1, (key.shape[1], -1))  # (batch, kv_heads, group, seq, head_dim)
    scores = _Scores(layer.scale, layer.config.softcap, layer.config.window)
    return _RingAttention.apply(grouped, key, value, ring, sequence, scores).flatten(1, 2)


@dataclass(frozen=True)
class _Scores:
    """How scores come from queries and keys."""

    scale: float
    softcap: float | None
    window: int | None

    def __call__(self, query: Tensor, key: Tensor, visible: Tensor | None) -> Tensor:
        scores = self.scale * (query @ key.unsqueeze(2).transpose(-1, -2)).float()  # (batch, kv, group, chunk, chunk)
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        return scores if visible is None else scores.masked_fill(~visible, -math.inf)


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, ring: Ring, sequence: RingSequence, scores: _Scores
    ) -> Tensor:
        out = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
        lse = torch.full(query.shape[:-1], -math.inf, device=query.device)  # (batch, kv_heads, group, seq)
        pair = torch.stack((key, value)).contiguous()
        for step in range(ring.size):
            on_the_way = ring.travel(pair) if step + 1 < ring.size else None
            for here, there, visible in _meetings(ring, step, sequence, scores.window):
                s = scores(query[..., here, :], pair[0][..., there, :], visible)
                part = torch.logsumexp(s, -1)
                weights = torch.exp(s - _finite(part)[..., None]).to(value.dtype)
                mixed = (weights @ pair[1][..., there, :].unsqueeze(2)).float()
                merged = torch.logaddexp(lse[..., here], part)
                old, new = (torch.exp(x - _finite(merged))[..., None] for x in (lse[..., here], part))
                out[..., here, :] = out[..., here, :] * old + mixed * new
                lse[..., here] = merged
            if on_the_way:
                pair = on_the_way.arrive()
        mixed = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, mixed, lse)
        ctx.ring, ctx.sequence, ctx.scores = ring, sequence, scores
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mixed, lse = ctx.saved_tensors
        ring, scores = ctx.ring, ctx.scores
        delta = (grad * mixed).sum(-1, dtype=torch.float32)[..., None]
        query_grad = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
        pair = torch.stack((key, value)).contiguous()
        pair_grad = torch.zeros(pair.shape, dtype=torch.float32, device=pair.device)
        for step in range(ring.size):
            on_the_way = ring.travel(pair) if step + 1 < ring.size else None
            for here, there, visible in _meetings(ring, step, ctx.sequence, scores.window):
                q, k, v, g = query[..., here, :], pair[0][..., there, :], pair[1][..., there, :], grad[..., here, :]
                s = scores(q, k, visible)
                weights = torch.exp(s - _finite(lse[..., here])[..., None])  # (batch, kv_heads, group, chunk, chunk)
                slope = weights * ((g @ v.unsqueeze(2).transpose(-1, -2)).float() - delta[..., here, :])
                if scores.softcap is not None:
                    slope = slope * (1 - (s / scores.softcap).square()).nan_to_num(neginf=0.0)
                slope = (slope * scores.scale).to(query.dtype)
                query_grad[..., here, :] += slope @ k.unsqueeze(2)
                pair_grad[0][..., there, :] += (slope.transpose(-1, -2) @ q).sum(2)
                pair_grad[1][..., there, :] += (weights.to(g.dtype).transpose(-1, -2) @ g).sum(2)
            if on_the_way:
                pair = on_the_way.arrive()
            pair_grad = ring.travel(pair_grad).arrive()  # after the last step it is home
        key_grad, value_grad = pair_grad
        return query_grad.to(query.dtype), key_grad.to(key.dtype), value_grad.to(value.dtype), None, None, None


def _meetings(
    ring: Ring, step: int, sequence: RingSequence, window: int | None
) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """Which of this process's chunks meet which of those at hand in a step: both as places, and who sees whom."""
    n = sequence.chunk
    for i, queries in enumerate(ring.chunks(ring.rank)):
        for j, keys in enumerate(ring.chunks((ring.rank - step) % ring.size)):
            reaches = window is None or (queries - keys - 1) * n + 1 < window
            if keys <= queries and reaches:
                here, there = slice(i * n, (i + 1) * n), slice(j * n, (j + 1) * n)
                yield here, there, sequence.visible(queries, keys, window)


def _finite(lse: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """0 where nothing is seen yet: every score minus it stays -infinity, and none becomes NaN."""
    return lse.masked_fill(lse == -math.inf, 0.0)
