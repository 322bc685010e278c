"""Float8 matrix products: the blocks' linear maps multiply numbers of 8 bits, twice as many a second as of 16.

    y = (q(x) q(W)^T) / (s_x s_W),    q(t) = float8(s_t t),    s_t = largest float8 / max |t|

Each tensor gets a scale of its own in each pass, so that its largest number just fits; products are summed up in
float32. Inputs and weights have 4 bits of exponent and 3 of fraction (e4m3), gradients of outputs 5 and 2 (e5m2), which
reach further. The weights that the optimizer knows stay float32, and so do checkpoints: a converted map has the very
parameters of the one in whose place it stands. The head and the embedding, whose errors show in the loss directly, stay
as they are, and so do maps whose sizes are no multiples of 16, which float8 units cannot multiply.

It takes an NVIDIA GPU of compute capability 8.9 or later, and pays for wide layers and with `compile`. The engine is
torchao's `torchao.float8`, an optional extra. It swaps any subclass of `nn.Linear` for its own, so ours need no
converter; as `nn.linear.together` and `can_join` join plain maps only, converted ones multiply one by one.

Source: Micikevicius et al., "FP8 Formats for Deep Learning", 2022, arXiv:2209.05433, sections 3 and 4.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from penjing.device import device_name
from penjing.errors import ConfigError
from penjing.training.engine import blocks_of

MULTIPLE = 16
"""What inputs and outputs of a map must be multiples of."""
_CAPABILITY = (8, 9)


def check(device: torch.device) -> None:
    """Whether a device multiplies float8, and torchao is there.

    Raises:
        ConfigError: one of them is missing; it says which.
    """
    able = device.type == "cuda" and torch.version.hip is None
    if not able or torch.cuda.get_device_capability(device) < _CAPABILITY:
        raise ConfigError(
            "float8 needs an NVIDIA GPU of compute capability 8.9 or later (Ada, Hopper, Blackwell), and this machine "
            f"trains on {device_name(device)}; set float8 = false"
        )
    _torchao()


def convert(model: nn.Module, *, pieces: int = 1, emulate: bool = False) -> Callable[[], None]:
    """Makes the linear maps of a model's blocks multiply float8, before it is divided among processes.

    Args:
        model: its parameters stay the same objects.
        pieces: among how many processes a map's inputs or outputs are divided.
        emulate: round to float8, but multiply what comes out in float32, which any device can: for tests.

    Returns:
        What undoes it: the maps are again what they were, and have the weights that the converted ones have by then.

    Raises:
        ConfigError: torchao is missing, or no map has sizes that fit.
    """
    float8 = _torchao()
    config = float8.Float8LinearConfig(emulate=emulate, pad_inner_dim=True)  # batches have any number of tokens
    before: list[tuple[nn.Module, str, nn.Linear]] = []

    def fits(map_: nn.Module, _: str) -> bool:
        return isinstance(map_, nn.Linear) and all(size % (MULTIPLE * pieces) == 0 for size in map_.weight.shape)

    for block in blocks_of(model):
        maps = [
            (parent, name, child)
            for parent in block.modules()
            for name, child in parent.named_children()
            if isinstance(child, nn.Linear) and fits(child, name) and child is not getattr(model, "head", None)
        ]
        before += maps
        wanted = {id(map_) for _, _, map_ in maps}
        float8.convert_to_float8_training(block, config=config, module_filter_fn=lambda m, _, w=wanted: id(m) in w)
    if not before:
        raise ConfigError(
            f"float8 needs linear maps whose inputs and outputs are multiples of {MULTIPLE * pieces}, and no block "
            "has one; change the model's width and hidden, or set float8 = false"
        )
    for parent, name, _ in before:
        converted: Any = getattr(parent, name)
        converted.direct = converted.packed = None  # as of `nn.linear.Linear`: a decoding step has no other product

    def undo() -> None:
        for parent, name, map_ in before:
            converted = cast(nn.Linear, getattr(parent, name))
            map_.weight, map_.bias = converted.weight, converted.bias
            map_.train(converted.training)
            setattr(parent, name, map_)

    return undo


def _torchao() -> Any:
    try:
        from torchao import float8
    except ImportError as error:
        raise ConfigError(f"float8 needs torchao ({error}): pip install 'penjing[float8]'") from None
    return float8
