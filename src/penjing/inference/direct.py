"""The products of decoding steps: for very few tokens straight from the weights, for a batch from packed ones.

On a CPU one token's pass costs the time of reading all weights. `nn.few.products` reads them as they lie, at nearly the
memory's speed; it needs no copy, so it is right from the first step on and after any change of the weights. From some
number of tokens on, arithmetic outweighs reading, and oneDNN's layout (`inference.packing`) is faster.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from penjing.inference import packing
from penjing.nn.linear import Linear, Product

MOST = {torch.float32: 3, torch.float64: 8, torch.bfloat16: 2}
"""Up to how many tokens the direct products are faster than packed ones (two Zen 4 cores)."""

UNPACKED_MOST = 6
"""Up to how many tokens they are faster than plain ones."""

PACKED_MOST = 64
"""Up to how many tokens packed weights are of use."""


_MOST_MAPS = 3


class Direct:
    """The product of a linear map, or of several with the same input, for a few vectors; `active` says if in use."""

    __slots__ = ("_arrays", "_biased", "_linears", "_outputs", "_places", "active", "sizes")

    def __init__(self, linears: Sequence[Linear]):
        self._linears = linears
        self.sizes = tuple(linear.out_features for linear in linears)
        self.active = False
        self._outputs = sum(self.sizes)
        self._biased = linears[0].bias is not None
        self._places: list[int] = []
        self._arrays: tuple[Any, ...] = ()

    def __call__(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """`x W^T + b`, of several maps side by side."""
        from penjing.nn import few

        places = [linear.weight.data_ptr() for linear in self._linears]
        if places != self._places:  # the first time, and when a weight was replaced
            weights = [linear.weight.detach() for linear in self._linears]
            none = [weights[0][:0]] * (_MOST_MAPS - len(weights))  # always as many: each number is a kernel of its own
            self._arrays = tuple(map(few.array, weights + none))
            self._places = places
        rows = x.reshape(-1, x.shape[-1]).contiguous()  # (rows, inputs)
        y = x.new_empty(*x.shape[:-1], self._outputs)
        few.products(self._arrays, few.array(rows), few.array(y.view(-1, self._outputs)), torch.get_num_threads())
        bias = packing.joint_bias(self._linears) if self._biased else None
        return y if bias is None else y.add_(bias)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copied model makes its own."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()


class Fast:
    """Chooses the products of a model's decoding steps by the number of tokens; on other devices than CPUs, none.

    With `anew` it takes no packed weights that an earlier batch left: what it chooses depends on this batch alone.
    """

    def __init__(self, model: nn.Module, anew: bool = False):
        self._model = model
        self._direct: list[Direct] = []
        self._packed: list[packing.PackedWeight] | None = [] if anew else None
        self._steps = 0  # taken in which packed weights would have been of use
        groups = packing.groups_of(model)
        weights = [linear.weight for group in groups for linear in group]
        dtypes = {weight.dtype for weight in weights}
        self._dtype = next(iter(dtypes)) if len(dtypes) == 1 else torch.float16
        plain = all(weight.device.type == "cpu" and weight.is_contiguous() for weight in weights)
        if plain and self._dtype in MOST:
            self._direct = [Direct(group) for group in groups]
            for group, product in zip(groups, self._direct, strict=True):
                group[0].direct = product

    def reads_directly(self, tokens: int) -> bool:
        """Whether a pass over so many tokens reads the weights as they lie."""
        return bool(self._direct) and tokens <= MOST[self._dtype] and not torch.is_autocast_enabled("cpu")

    def using(self, tokens: int, passes: int) -> AbstractContextManager[None]:
        """For a pass over so many tokens, with so many more such passes to come, the products that are fastest."""
        return packing.using(self._products(tokens, passes))

    def _products(self, tokens: int, passes: int) -> Sequence[Product]:
        if self.reads_directly(tokens):
            return self._direct
        if tokens > PACKED_MOST:
            return ()
        if self._packed is None:
            self._packed = packing.packed_before(self._model)
        self._steps += 1
        if not self._packed and self._steps > packing.STEPS_BEFORE <= passes:
            self._packed = packing.pack(self._model, tokens)
        return self._packed or (self._direct if tokens <= UNPACKED_MOST else ())
