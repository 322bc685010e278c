"""Weights laid out for a batch's decoding steps on a CPU.

A decoding step multiplies each weight matrix by a handful of vectors: its time is that of reading the weights. The
usual layout, a row for each output, is made for training's large products; for several vectors oneDNN's own blocked
layout is 1.4 to 2 times as fast (two Zen 4 cores, models of 15M and 125M weights). Maps with the same input are laid
side by side and take one product. (For very few vectors `inference.direct` is faster still, without packing.)

Packing costs about as much as ten steps and, while it lasts, the weights' memory once more. So a batch is packed
when it has lived for some steps, the packed weights stay with the model, and the next batch uses them if they are
still right: same memory, same version, same checksum. They are active only during decoding steps; training never
sees them.
"""

import functools
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from jaxtyping import Float
from torch import Tensor, nn

from penjing.nn.linear import Linear, Product

STEPS_BEFORE = 12
"""Packing begins to pay for a batch that goes on for about this many steps; one that has gone so far tends to go on."""

_MEMORY_SHARE = 0.5
"""Weights are not packed when the copy would take more than this share of the free memory."""


class PackedWeight:
    """The weight of a linear map, or of several with the same input, in another layout. `active` says if it is used."""

    __slots__ = ("_bias", "_stamp", "_weight", "active", "sizes")

    def __init__(self, linears: Sequence[Linear], rows: int):
        weights = [linear.weight.detach() for linear in linears]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        self._bias = joint_bias(linears)
        self._stamp = _stamp(linears)
        self.sizes = tuple(map(len, weights))
        self.active = False

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """`x W^T + b`, of several maps side by side."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")

    def fits(self, linears: Sequence[Linear]) -> bool:
        """Whether these are still those maps' weights."""
        return self._stamp == _stamp(linears)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copied model has no packed weights."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()


def pack(model: nn.Module, rows: int) -> list[PackedWeight]:
    """Packs a model's linear maps for steps of so many rows; nothing where that is of no use.

    That is on other devices than x86 CPUs, in dtypes that the processor has no such layout for, or without the memory.
    """
    groups = groups_of(model)
    linears = [linear for group in groups for linear in group]
    size = sum(linear.weight.nbytes for linear in linears)
    if not all(map(_packable, linears)) or size > _MEMORY_SHARE * psutil.virtual_memory().available:
        return []
    packed = [PackedWeight(group, rows) for group in groups]
    for group, weight in zip(groups, packed, strict=True):
        group[0].packed = weight
    return packed


def packed_before(model: nn.Module) -> list[PackedWeight]:
    """The packed weights that an earlier batch left, if they still fit; those that do not are let go."""
    groups = groups_of(model)
    found = [group[0].packed for group in groups if isinstance(group[0].packed, PackedWeight)]
    if len(found) == len(groups) and all(map(PackedWeight.fits, found, groups)):
        return found
    for group in groups:
        group[0].packed = None
    return []


def groups_of(model: nn.Module) -> list[list[Linear]]:
    """A model's linear maps; those with the same input, as their module's `joint` says, together."""
    groups: list[list[Linear]] = []
    taken: set[int] = set()
    for module in model.modules():
        maps = [getattr(module, name) for name in getattr(module, "joint", ())]
        if maps and all(type(map_) is Linear for map_ in maps) and len({map_.bias is None for map_ in maps}) == 1:
            groups.append(maps)
            taken.update(map(id, maps))
    groups += [[m] for m in model.modules() if isinstance(m, Linear) and id(m) not in taken]
    return groups


def joint_bias(linears: Sequence[Linear]) -> Tensor | None:
    """The biases of maps side by side."""
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    return None if not biases else biases[0] if len(biases) == 1 else torch.cat(biases)


@contextmanager
def using(products: Sequence[Product]) -> Iterator[None]:
    """While it lasts, the maps use these products; not in autocast, which chooses dtypes product by product."""
    active = not torch.is_autocast_enabled("cpu")
    for product in products:
        product.active = active
    try:
        yield
    finally:
        for product in products:
            product.active = False


def _packable(linear: Linear) -> bool:
    return (
        linear.weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and platform.machine().lower() in ("x86_64", "amd64")
        and _can_pack(linear.weight.dtype)
    )


@functools.cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN has another layout for this dtype on this processor: for bfloat16 it takes AVX-512."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(16, 16, dtype=dtype), 4)
    except RuntimeError:
        return False
    return True


def _stamp(linears: Sequence[Linear]) -> tuple[int, ...]:
    """What changes when a weight does: where it is, PyTorch's count of its changes, and the sum of its bits.

    The sum is for changes that PyTorch does not count (through `.data`); it runs at the speed of memory.
    """
    stamp: list[int] = []
    for parameter in (parameter for linear in linears for parameter in linear.parameters()):
        bits = parameter.detach().flatten()
        wide = bits.view(torch.int64 if bits.nbytes % 8 == 0 else torch.int16)
        version = 0 if parameter.is_inference() else parameter._version  # made in inference mode: not counted
        stamp += [parameter.data_ptr(), version, int(wide.sum())]
    return tuple(stamp)
