"""Log-probabilities of the tokens of answers, a chunk of logits at a time.

    log p_i = logits_i[target_i] - logsumexp(logits_i),      logits = head(hidden) / temperature

What pretraining's loss adds up, every method of alignment needs for each token by itself: ratios of two policies,
rewards for each token, sums over answers. The gradient of log p_i for the logits is onehot(target_i) - softmax, times
whatever the method makes of log p_i, which is known only afterwards. So the softmax of a chunk is kept for the backward
pass where all of it is small (it is the answers' tokens only, and prompts are not among them), and computed again where
it is not: memory is then one chunk, as in `nn.cross_entropy`.

The entropy of each distribution, H = -sum_v p_v log p_v, comes along for the price of one pass; its gradient for the
logits, -p (log p + H), is computed where it is asked for.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from penjing.alignment.batch import AnswerBatch
from penjing.nn.cross_entropy import CHUNK_NUMBERS
from penjing.nn.head import Head, cap
from penjing.nn.linear import product

if TYPE_CHECKING:
    from penjing.models.language_model import LanguageModel

KEPT_NUMBERS = 2**24
"""Up to so many probabilities, 64 MB, are kept for the backward pass."""


def answer_log_probs(
    model: "LanguageModel", batch: AnswerBatch, temperature: float = 1.0
) -> tuple[Float[Tensor, " counted"], Float[Tensor, " counted"]]:
    """The log-probability of each counted token, and the entropy of what it was drawn from, in nats.

    Both have a gradient. At another `temperature` both are of the distribution that sampling with it draws from.
    """
    hidden = model.hidden(batch.tokens, batch.positions, batch.documents, wanted=batch.counted)
    return log_probs(hidden, model.head, batch.targets.flatten()[batch.counted], temperature)


def log_probs(
    hidden: Float[Tensor, "tokens width"],
    head: Head,
    targets: Int[Tensor, " tokens"],
    temperature: float = 1.0,
    chunk: int | None = None,
    kept: int = KEPT_NUMBERS,
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """Log-probabilities and entropies, in nats.

    Args:
        hidden: vectors after the final norm.
        head: gives `weight`, `bias` and `softcap`.
        targets: token ids.
        temperature: what logits are divided by.
        chunk: how many tokens' logits are held at once; None takes what a processor's cache likes.
        kept: up to so many numbers are kept for the backward pass instead of computed again.

    Returns:
        Both float32 (float64 for a float64 model), with a gradient, which can be taken once.
    """
    vocab = head.weight.shape[0]
    rows = max(256, CHUNK_NUMBERS // vocab) if chunk is None else chunk
    keep = targets.numel() * vocab <= kept
    settings = head.softcap, temperature, rows, keep
    found: tuple[Tensor, Tensor] = _LogProbs.apply(hidden, head.weight, head.bias, targets, settings)
    return found


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        settings: tuple[float | None, float, int, bool],
    ) -> tuple[Tensor, Tensor]:
        *_, chunk, keep = settings
        exact = torch.promote_types(hidden.dtype, torch.float32)
        chosen, entropy = (torch.empty(len(targets), dtype=exact, device=hidden.device) for _ in range(2))
        probabilities = []
        for start in range(0, len(targets), chunk):
            span = slice(start, start + chunk)
            logits = _logits(hidden[span], weight, bias, settings)  # (chunk, vocab)
            logsumexp = logits.logsumexp(dim=-1)
            chosen[span] = logits.gather(1, targets[span, None]).squeeze(1) - logsumexp
            softmax = (logits - logsumexp[:, None]).exp_()
            entropy[span] = logsumexp - torch.linalg.vecdot(softmax, logits)
            if keep:
                probabilities.append(softmax)
        ctx.save_for_backward(hidden, weight, bias, targets, entropy, *probabilities)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        return chosen, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor | None, of_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, entropy, *probabilities = ctx.saved_tensors
        softcap, temperature, chunk, _ = ctx.settings
        wanted = ctx.needs_input_grad
        scale = torch.zeros_like(entropy) if scale is None else scale
        hidden_grad = torch.empty_like(hidden) if wanted[0] else None
        weight_grad = torch.zeros_like(weight, dtype=scale.dtype) if wanted[1] else None
        bias_grad = None if bias is None else torch.zeros_like(bias, dtype=scale.dtype)
        for number, start in enumerate(range(0, len(targets), chunk)):
            span = slice(start, start + chunk)
            rows, slope = hidden[span], None
            if not probabilities or softcap is not None:
                logits = _logits(rows, weight, bias, ctx.settings)
                slope = None if softcap is None else 1 - (logits * temperature / softcap).square()
            softmax = probabilities[number] if probabilities else logits.softmax(dim=-1)
            more = None
            if of_entropy is not None:
                more = torch.special.xlogy(softmax, softmax).addcmul_(softmax, entropy[span, None])
                more.mul_(-of_entropy[span, None])
            grad = softmax.mul_(-scale[span, None])  # of the logits; nobody reads the softmax again
            grad.scatter_add_(1, targets[span, None], scale[span, None])
            grad = grad if more is None else grad.add_(more)
            grad = grad if slope is None else grad.mul_(slope)
            grad = grad.div_(temperature) if temperature != 1 else grad
            if bias_grad is not None:
                bias_grad += grad.sum(dim=0)
            grad = grad.to(rows.dtype)
            if hidden_grad is not None:
                hidden_grad[span] = product(grad, weight.t(), None)
            if weight_grad is not None:
                weight_grad += grad.t() @ rows
        return (
            hidden_grad,
            None if weight_grad is None else weight_grad.to(weight.dtype),
            None if bias_grad is None or bias is None else bias_grad.to(bias.dtype),
            None,
            None,
        )


def _logits(
    rows: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple[float | None, float, int, bool]
) -> Tensor:
    softcap, temperature, _, _ = settings
    logits = product(rows, weight, bias)
    exact = cap(logits.to(torch.promote_types(logits.dtype, torch.float32)), softcap)
    return exact if temperature == 1 else exact / temperature
