"""Cross-entropy of the next token, without ever holding all logits.

    loss = sum over counted i of  logsumexp(logits_i) - logits_i[target_i],      logits = head(hidden)

A row of logits is `vocab` numbers, many times wider than the hidden vector that it comes from; for all tokens of a
batch the logits, their softmax and their gradient are most of a training step's memory. Here the counted tokens are
taken a chunk at a time, and the gradient, `softmax(logits) - onehot(target)` times the head's weight and times the
hidden vectors, is computed in the forward pass while the chunk is at hand. The backward pass only scales it.

Source of the idea: Hsu et al., "Liger Kernel", 2024, arXiv:2410.10989, section 3.2 (fused linear cross-entropy).
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from penjing.nn.head import Head


def cross_entropy(
    hidden: Float[Tensor, "*batch width"],
    head: Head,
    targets: Int[Tensor, "*batch"],
    mask: Bool[Tensor, "*batch"] | None = None,
    chunk: int = 2048,
) -> Float[Tensor, ""]:
    """The summed cross-entropy, in nats, of the targets that `mask` counts.

    Args:
        hidden: vectors after the final norm.
        head: gives `weight`, `bias` and `softcap`.
        targets: token ids; those not counted may be anything.
        mask: which predictions count; None for all.
        chunk: how many tokens' logits are held at once.

    Returns:
        A float32 sum (float64 for a float64 model); zero when nothing counts. Its gradient can be taken once.
    """
    hidden, targets = hidden.flatten(0, -2), targets.flatten()  # (tokens, width), (tokens,)
    if mask is not None:
        counted = mask.flatten().nonzero().squeeze(1)
        if len(counted) < len(targets):
            hidden, targets = hidden[counted], targets[counted]
    return _ChunkedCrossEntropy.apply(hidden, head.weight, head.bias, targets, head.softcap, chunk)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        softcap: float | None,
        chunk: int,
    ) -> Tensor:
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=exact, device=hidden.device)
        hidden_grad = torch.empty_like(hidden) if wants_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=exact) if wants_weight else None
        bias_grad = torch.zeros_like(bias, dtype=exact) if wants_bias and bias is not None else None
        for start in range(0, len(targets), chunk):
            rows, wanted = hidden[start : start + chunk], targets[start : start + chunk, None]
            logits = (rows @ weight.t()).to(exact)  # (chunk, vocab)
            if bias is not None:
                logits += bias
            if softcap is not None:
                logits = torch.tanh(logits / softcap) * softcap
            total += (logits.logsumexp(dim=-1, keepdim=True) - logits.gather(1, wanted)).sum()
            if not (wants_hidden or wants_weight or wants_bias):
                continue
            slope = 1 - (logits / softcap).square() if softcap is not None else None
            grad = logits.softmax(dim=-1)
            grad.scatter_add_(1, wanted, grad.new_full(wanted.shape, -1.0))
            if slope is not None:
                grad *= slope
            if bias_grad is not None:
                bias_grad += grad.sum(dim=0)
            grad = grad.to(rows.dtype)
            if hidden_grad is not None:
                hidden_grad[start : start + chunk] = grad @ weight
            if weight_grad is not None:
                weight_grad += grad.t() @ rows
        ctx.gradients = (
            hidden_grad,
            None if weight_grad is None else weight_grad.to(weight.dtype),
            None if bias_grad is None or bias is None else bias_grad.to(bias.dtype),
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = (None if grad is None else grad * scale.to(grad.dtype) for grad in ctx.gradients)
        return hidden, weight, bias, None, None, None
