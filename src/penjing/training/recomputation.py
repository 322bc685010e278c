"""Gradient checkpointing: what the backward pass needs of a block is computed again instead of kept.

    none        all is kept
    selective   kept are each block's input and the results of its linear maps and of fused attention; norms, rotations,
                activations and their products are computed again
    full        kept is each block's input alone; the whole block runs again

A linear map takes `2 * inputs` operations for each number that it gives, fused attention `4 * keys`; everything else
takes a handful. So `selective` saves much of the memory for little time, and `full` nearly all of it for a second
forward pass. Scores of attention, where they are held at all (soft-caps, dropout of weights, bfloat16 on a CPU), are
computed again in both: they grow with the square of the text, and are cheap for what they take.

Gradients are those of `none`, bit for bit: the same operations run on the same numbers, dropout included.

Sources: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv:1604.06174 (full); Korthikanti et
al., "Reducing Activation Recomputation in Large Transformer Models", 2022, arXiv:2205.05198, section 5 (selective).
The engine is PyTorch's `torch.utils.checkpoint`.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from penjing.errors import ConfigError, nearest
from penjing.training.engine import blocks_of

MODES = ("none", "selective", "full")
"""From the most memory to the least."""

_KEPT = (
    "aten.mm",
    "aten.addmm",
    "aten.linear",  # on Apple's GPUs an operation of its own
    "aten._scaled_mm",  # float8
    "mkldnn._linear_pointwise",  # what `nn.linear` takes for float32 on a CPU
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_cudnn_attention",
)


def mode_of(setting: str | bool) -> str:
    """The mode that a setting names; true is full and false is none, as before there were three.

    Raises:
        ConfigError: there is no such mode.
    """
    if isinstance(setting, bool):
        return "full" if setting else "none"
    if setting not in MODES:
        raise ConfigError(
            f"gradient_checkpointing is '{setting}'; it is 'none', 'selective' or 'full'{nearest(setting, MODES)}"
        )
    return setting


def recompute_activations(model: nn.Module, setting: str | bool = "full") -> Callable[[], None]:
    """Makes every block of a model keep no more than the setting says.

    Args:
        model: a model without `blocks` counts as one block.
        setting: as of `mode_of`.

    Returns:
        What undoes it.
    """
    mode = mode_of(setting)
    if mode == "none":
        return lambda: None
    blocks = blocks_of(model)
    how: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        how["context_fn"] = partial(create_selective_checkpoint_contexts, _keeps)

    def wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
        def again(*inputs: Any, **named: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*inputs, **named)
            return checkpoint(forward, *inputs, **how, **named)

        return again

    for block in blocks:
        block.forward = wrap(block.forward)

    def undo() -> None:
        for block in blocks:
            del block.forward

    return undo


def _keeps(_: Any, operation: Any, *inputs: Any, **named: Any) -> CheckpointPolicy:
    """Our own autograd functions are no exception: the policy sees the products that they compute inside."""
    return CheckpointPolicy.MUST_SAVE if operation in _kept() else CheckpointPolicy.PREFER_RECOMPUTE


@cache
def _kept() -> frozenset[Any]:
    """Those of `_KEPT` that this PyTorch has."""
    found = set()
    for name in _KEPT:
        library, _, operation = name.partition(".")
        packet = getattr(getattr(torch.ops, library), operation, None)
        if packet is not None:
            found.add(packet.default)
    return frozenset(found)
