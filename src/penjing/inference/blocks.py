"""Passes over very few tokens by whole-block kernels (`nn.few_block`), for models whose blocks are all of that kind.

A model that is not, by its layers, its device, its dtype or what a user has hooked into it, goes the usual way; what
comes out is the same but for rounding.

The kernel takes some ten seconds to compile, once on a machine for each dtype. It is compiled beside the passes, which
go the usual way until it is there, and only where many are to come.
"""

import time
from collections.abc import Sequence
from threading import Thread
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from penjing.nn.attention import Attention
from penjing.nn.block import Block
from penjing.nn.linear import Linear
from penjing.nn.norms import DTYPES, RMSNorm
from penjing.nn.paged import PagedKV, Ragged
from penjing.nn.swiglu import SwiGLU

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel

_MAPS = (
    ("mixer", "query"), ("mixer", "key"), ("mixer", "value"), ("mixer", "output"), ("mlp", "gate"), ("mlp", "up"),
    ("mlp", "down"),
)  # fmt: skip

WORTH_COMPILING = 48
"""How many passes must be to come for the kernel to be compiled."""

compile_seconds: dict[torch.dtype, float] = {}
"""How long it took for each dtype; a fraction of a second where an earlier process left the kernel on disk."""

_compiling: dict[torch.dtype, Thread] = {}


def wait() -> None:
    """Waits until all kernels that are being compiled are there."""
    for thread in list(_compiling.values()):
        thread.join()


def _compile(dtype: torch.dtype, kinds: tuple[Any, ...]) -> None:
    from penjing.nn.few_block import block

    begin = time.perf_counter()
    block.compile(kinds)
    compile_seconds[dtype] = time.perf_counter() - begin


class Blocks:
    """The blocks of a model, as arrays that kernels read. It is made anew when a weight is replaced.

    Args:
        model: one that `plain` says yes to.
        layers: the pages of its layers.
    """

    def __init__(self, model: "LanguageModel", layers: Sequence[PagedKV]):
        self._model = model
        self._layers = layers
        self._dtype = model.embedding.weight.dtype
        self._exact = torch.float64 if self._dtype == torch.float64 else torch.float32
        self._held = _weights(model)  # where each weight is to be found
        self._places: list[int] = []
        self._arrays: list[tuple[Any, ...]] = []

    def __call__(self, tokens: Tensor, sequence: Ragged, passes: int) -> Float[Tensor, "1 tokens width"] | None:
        """The residual stream after the last block, or None while there is no kernel.

        Args:
            tokens: ids, `(1, tokens)`.
            sequence: whose they are.
            passes: how many passes are to come.
        """
        if self._dtype not in _compiling and passes < WORTH_COMPILING:
            return None
        from penjing.nn import few_block

        model = self._model
        if self._places != (places := [held[name].data_ptr() for held, name in self._held]):
            self._arrays, self._places = [self._arrays_of(block) for block in _blocks(model)], places
        x = model.embedding(tokens)
        if model.config.embedding_scale != 1:
            x = x * torch.tensor(model.config.embedding_scale, dtype=x.dtype)
        x = x.to(self._exact, copy=True)  # (1, tokens, width)
        texts, lengths = sequence.rows()
        for block, pages, arrays in zip(_blocks(model), self._layers, self._arrays, strict=True):
            where = (sequence.table(pages.window), texts, lengths, *sequence.places(pages.window))
            rotation = self._rotation(block, sequence)
            arguments = x[0].numpy(), *arrays[:4], rotation, pages.arrays, where, arrays[4], torch.get_num_threads()
            if not self._is_compiled(arguments):
                return None
            few_block.block(*arguments)
        return x

    def _is_compiled(self, arguments: tuple[Any, ...]) -> bool:
        """Whether the kernel is there; the first who asks has it compiled."""
        if self._dtype not in _compiling:
            from numba import typeof

            kinds = tuple(map(typeof, arguments))
            _compiling[self._dtype] = thread = Thread(target=_compile, args=(self._dtype, kinds))
            thread.start()
        return not _compiling[self._dtype].is_alive()

    def _arrays_of(self, block: Block) -> tuple[Any, ...]:
        """Maps, norms, vectors, eps and numbers as the kernel takes them."""
        from penjing.nn import few

        mixer, config = cast(Attention, block.mixer), cast(Attention, block.mixer).config
        maps = [few.array(getattr(getattr(block, part), name).weight.detach()) for part, name in _MAPS]
        none = maps[0][0, :0]
        norms = tuple(few.array(norm.weight.detach()) for norm in (block.mixer_norm, block.mlp_norm))
        weights = [None if norm is None else norm.weight for norm in (mixer.query_norm, mixer.key_norm)]
        weights += [linear.bias for linear in (mixer.query, mixer.key, mixer.value)]
        vectors = tuple(none if weight is None else few.array(weight.detach()) for weight in weights)
        head_eps = 0.0 if mixer.query_norm is None else mixer.query_norm.config.eps
        kind = np.float64 if self._exact == torch.float64 else np.float32
        eps = (kind(block.mixer_norm.config.eps), kind(head_eps))
        numbers = (mixer.head_dim, config.window or 0, kind(mixer.scale), kind(config.softcap or 0))
        return tuple(maps), norms, vectors, eps, numbers

    def _rotation(self, block: Block, sequence: Ragged) -> tuple[Any, Any]:
        rope = cast(Attention, block.mixer).rope
        if rope is None:
            none = np.empty((len(sequence.single), 0), np.float64 if self._exact == torch.float64 else np.float32)
            return none, none
        return tuple(half[0].numpy() for half in sequence.rotation(rope, self._exact))  # type: ignore[return-value]


def plain(model: "LanguageModel") -> bool:
    """Whether all blocks are what the kernel computes, and nothing is hooked in that would have to be called."""
    from penjing.models.language_model import LanguageModel

    if type(model) is not LanguageModel or "hidden" in vars(model):  # one of a user's own computes what it likes
        return False
    if model.learned_positions is not None or not all(map(_is_plain, model.blocks)):
        return False
    weights = [held[name] for held, name in _weights(model)]
    dtypes = {weight.dtype for weight in weights} | {model.embedding.weight.dtype}
    return (
        len(dtypes) == 1
        and dtypes <= set(DTYPES)
        and all(weight.device.type == "cpu" and weight.is_contiguous() for weight in weights)
        and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    )


def _is_plain(block: nn.Module) -> bool:
    if type(block) is not Block or type(block.mixer) is not Attention or type(block.mlp) is not SwiGLU:
        return False
    mixer, mlp = block.mixer, block.mlp
    norms = [block.mixer_norm, block.mlp_norm]
    norms += [norm for norm in (mixer.query_norm, mixer.key_norm) if norm is not None]
    maps = [getattr(getattr(block, part), name) for part, name in _MAPS]
    return (
        all(type(norm) is RMSNorm for norm in norms)
        and norms[0].config.eps == norms[1].config.eps
        and all(type(linear) is Linear for linear in maps)
        and not mixer.config.joint_qk_norm
        and mixer.output.bias is None
        and mlp.gate.bias is None
    )


def _blocks(model: "LanguageModel") -> Sequence[Block]:
    return cast("Sequence[Block]", model.blocks)


def _weights(model: "LanguageModel") -> list[tuple[dict[str, Any], str]]:
    """Every weight of the blocks, as the dictionary that holds it and its name there."""
    return [
        (module._parameters, name)
        for module in model.blocks.modules()
        for name, weight in module._parameters.items()
        if weight is not None
    ]
