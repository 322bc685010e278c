"""Weights laid out for single steps on a CPU.

A decoding step multiplies each weight matrix by a handful of vectors: its time is that of reading the weights. The
usual layout, a row for each output, is made for training's large products; for one vector a float32 product reads
memory 1.5 times as fast from the transposed matrix, and for several, or in bfloat16, oneDNN's own blocked layout is
1.4 to 2 times as fast (two Zen 4 cores, models of 15M and 125M weights).

Packing costs about as much as ten steps and, while it lasts, the weights' memory once more. So a batch is packed
when it has lived for some steps, the packed weights stay with the model, and the next batch uses them if they are
still right: same memory, same version, same checksum. They are active only during decoding steps; training never
sees them.
"""

import itertools
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from jaxtyping import Float
from torch import Tensor, nn

from penjing.nn.linear import Linear

STEPS_BEFORE = 12
"""Packing begins to pay for a batch that goes on for about this many steps; one that has gone so far tends to go on."""

_MEMORY_SHARE = 0.5
"""Weights are not packed when the copy would take more than this share of the free memory."""


class PackedWeight:
    """One linear map's weight in another layout. `active` says whether the map uses it."""

    __slots__ = ("_bias", "_blocked", "_stamp", "_weight", "active")

    def __init__(self, linear: Linear, rows: int):
        weight = linear.weight.detach()
        self._blocked = _blocked(weight, rows)
        self._weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight, rows) if self._blocked else weight.t().contiguous()
        )
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._stamp = _stamp(linear)
        self.active = False

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """`x W^T + b`."""
        if self._blocked:
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        y = x @ self._weight
        return y if self._bias is None else y + self._bias

    def fits(self, linear: Linear, rows: int) -> bool:
        """Whether this is still that map's weight, in the layout for so many rows."""
        return self._blocked == _blocked(linear.weight, rows) and self._stamp == _stamp(linear)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copied model has no packed weights."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()


def pack(model: nn.Module, rows: int) -> list[PackedWeight]:
    """Packs a model's linear maps for steps of so many rows; nothing where that is of no use.

    That is on other devices than x86 CPUs, in other dtypes than float32 and bfloat16, or without the memory for it.
    """
    linears = _linears(model)
    size = sum(linear.weight.nbytes for linear in linears)
    if not all(map(_packable, linears)) or size > _MEMORY_SHARE * psutil.virtual_memory().available:
        return []
    packed = [PackedWeight(linear, rows) for linear in linears]
    for linear, weight in zip(linears, packed, strict=True):
        linear.packed = weight
    return packed


def packed_before(model: nn.Module, rows: int) -> list[PackedWeight]:
    """The packed weights that an earlier batch left, if they still fit; those that do not are let go."""
    linears = _linears(model)
    found = [linear.packed for linear in linears if isinstance(linear.packed, PackedWeight)]
    if len(found) == len(linears) and all(map(PackedWeight.fits, found, linears, itertools.repeat(rows))):
        return found
    for linear in linears:
        linear.packed = None
    return []


@contextmanager
def using(packed: Sequence[PackedWeight]) -> Iterator[None]:
    """While it lasts, the maps use their packed weights; not in autocast, which chooses dtypes product by product."""
    active = not torch.is_autocast_enabled("cpu")
    for weight in packed:
        weight.active = active
    try:
        yield
    finally:
        for weight in packed:
            weight.active = False


def _linears(model: nn.Module) -> list[Linear]:
    return [module for module in model.modules() if isinstance(module, Linear)]


def _packable(linear: Linear) -> bool:
    return (
        linear.weight.device.type == "cpu"
        and linear.weight.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and platform.machine().lower() in ("x86_64", "amd64")
    )


def _blocked(weight: Tensor, rows: int) -> bool:
    """Whether oneDNN's layout is the faster one; else it is the transpose."""
    return rows > 1 or weight.dtype == torch.bfloat16


def _stamp(linear: Linear) -> tuple[int, ...]:
    """What changes when a weight does: where it is, PyTorch's count of its changes, and the sum of its bits.

    The sum is for changes that PyTorch does not count (through `.data`); it runs at the speed of memory.
    """
    stamp: list[int] = []
    for parameter in (linear.weight, linear.bias):
        if parameter is not None:
            bits = parameter.detach().flatten()
            wide = bits.view(torch.int64 if bits.nbytes % 8 == 0 else torch.int16)
            version = 0 if parameter.is_inference() else parameter._version  # made in inference mode: not counted
            stamp += [parameter.data_ptr(), version, int(wide.sum())]
    return tuple(stamp)
