"""Cross-entropy of the next token, without ever holding all logits.

    loss = sum over counted i of  logsumexp(logits_i) - logits_i[target_i],      logits = head(hidden)

A row of logits is `vocab` numbers, many times wider than the hidden vector that it comes from; for all tokens of a
batch the logits, their softmax and their gradient are most of a training step's memory. Here the counted tokens are
taken a chunk at a time, and the gradient, `softmax(logits) - onehot(target)` times the head's weight and times the
hidden vectors, is computed in the forward pass while the chunk is at hand. The backward pass only scales it.

Where processes divide the vocabulary, each computes the logits of its part; of these only three numbers a token are put
together, the largest logit, the sum of exponentials and the target's logit (Shoeybi et al., "Megatron-LM", 2019,
arXiv:1909.08053, section 3). The gradient of `hidden` is then that of the part.

Source of the idea: Hsu et al., "Liger Kernel", 2024, arXiv:2410.10989, section 3.2 (fused linear cross-entropy).
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from penjing.nn import passes
from penjing.nn.head import Head, Share, cap
from penjing.nn.linear import product

CHUNK_NUMBERS = 2**21  # logits held at once: measured best on two Zen 4 cores, where 8 MB of them stay in the cache


def cross_entropy(
    hidden: Float[Tensor, "*batch width"],
    head: Head,
    targets: Int[Tensor, "*batch"],
    mask: Bool[Tensor, "*batch"] | None = None,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """The summed cross-entropy, in nats, of the targets that `mask` counts.

    Args:
        hidden: vectors after the final norm.
        head: gives `weight`, `bias` and `softcap`.
        targets: token ids; those not counted may be anything.
        mask: which predictions count; None for all.
        chunk: how many tokens' logits are held at once; None takes what a processor's cache likes.

    Returns:
        A float32 sum (float64 for a float64 model); zero when nothing counts. Its gradient can be taken once.
    """
    hidden, targets = hidden.flatten(0, -2), targets.flatten()  # (tokens, width), (tokens,)
    if mask is not None:
        counted = mask.flatten().nonzero().squeeze(1)
        if len(counted) < len(targets):
            hidden, targets = hidden[counted], targets[counted]
    rows = max(256, CHUNK_NUMBERS // head.weight.shape[0]) if chunk is None else chunk
    weight: Tensor = head.weight
    bias: Tensor | None = head.bias
    if not torch.is_grad_enabled():  # the gradient is computed ahead, and would be for nothing
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    return _ChunkedCrossEntropy.apply(hidden, weight, bias, targets, head.softcap, rows, head.share)


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
        share: Share | None,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[:3]
        exact = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        hidden_grad = torch.empty_like(hidden) if wanted[0] else None
        weight_grad = torch.zeros_like(weight, dtype=exact) if wanted[1] else None
        bias_grad = torch.zeros_like(bias, dtype=exact) if wanted[2] and bias is not None else None
        for start in range(0, len(targets), chunk):
            rows = hidden[start : start + chunk]
            logits = cap(product(rows, weight, bias).to(exact), softcap)  # (chunk, vocab)
            wants = any(wanted)
            loss, grad = _loss_and_gradient(logits, targets[start : start + chunk, None], softcap, wants, share)
            total += loss
            if grad is None:
                continue
            if bias_grad is not None:
                bias_grad += grad.sum(dim=0)
            grad = grad.to(rows.dtype)
            if hidden_grad is not None:
                hidden_grad[start : start + chunk] = product(grad, weight.t(), None)
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
        return hidden, weight, bias, None, None, None, None


def _loss_and_gradient(
    logits: Tensor, targets: Tensor, softcap: float | None, wants_gradient: bool, share: Share | None
) -> tuple[Tensor, Tensor | None]:
    """The summed loss of `(chunk, vocab)` logits and its gradient for the scores before the cap. Overwrites
    `logits`.
    """
    if softcap is None and share is None and logits.dtype == torch.float32 and passes.serves(logits):
        losses = passes.softmax_loss(logits, targets.view(-1), wants_gradient)
        return losses.sum(), logits if wants_gradient else None
    slope = None if softcap is None or not wants_gradient else 1 - (logits / softcap).square()
    top = logits.amax(dim=-1, keepdim=True)  # (chunk, 1)
    ones = logits.new_ones(targets.shape)  # whether the target is among the logits
    if share is not None:
        targets = targets - share.first
        ones = ((targets >= 0) & (targets < logits.shape[1])).to(logits.dtype)
        targets = targets.clamp(0, logits.shape[1] - 1)
        top = share.largest(top)
    target_logits = logits.gather(1, targets) * ones
    exponentials = logits.sub_(top).exp_()
    sums = exponentials.sum(dim=-1, keepdim=True)
    if share is not None:
        sums, target_logits = share.total(torch.stack([sums, target_logits]))
    loss = (sums.log() + top - target_logits).sum()
    if not wants_gradient:
        return loss, None
    grad = exponentials.mul_(sums.reciprocal())  # softmax
    grad.scatter_add_(1, targets, -ones)
    return loss, grad if slope is None else grad.mul_(slope)
