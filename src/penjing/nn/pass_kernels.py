"""The loops of `nn.passes`, compiled by numba at first use; apart from it, since numba takes a while to import.

Rows are divided into `jobs`. No result depends on their number.
"""

import numpy as np
from numba import njit, prange

from penjing.nn.few import ROUNDING, _exp, number, stored


@njit(inline="always")
def _sigmoid(x):  # type: ignore[no-untyped-def]
    e = _exp(-abs(x))
    positive = np.float32(1) / (np.float32(1) + e)
    return positive if x >= 0 else e * positive


@njit(cache=True, nogil=True, parallel=True, fastmath=ROUNDING)
def gate(both, out, jobs):  # type: ignore[no-untyped-def]
    """`out = silu(g) u` for both `(rows, 2 * hidden)`, g and then u; out `(rows, hidden)`."""
    rows, hidden = out.shape
    for job in prange(jobs):
        for r in range(rows * job // jobs, rows * (job + 1) // jobs):
            for k in range(hidden):
                g = number(both[r, k])
                out[r, k] = stored(out, g * _sigmoid(g) * number(both[r, hidden + k]))


@njit(cache=True, nogil=True, parallel=True, fastmath=ROUNDING)
def gate_gradient(both, grad, out, jobs):  # type: ignore[no-untyped-def]
    """The gradient of both `(rows, 2 * hidden)`, from grad `(rows, hidden)`."""
    rows, hidden = grad.shape
    for job in prange(jobs):
        for r in range(rows * job // jobs, rows * (job + 1) // jobs):
            for k in range(hidden):
                g, d = number(both[r, k]), number(grad[r, k])
                opened = _sigmoid(g)
                silu = g * opened
                out[r, hidden + k] = stored(out, d * silu)
                out[r, k] = stored(out, d * number(both[r, hidden + k]) * opened * (np.float32(1) + g - silu))


@njit(cache=True, nogil=True, parallel=True, fastmath=ROUNDING)
def rotate(x, cos, sin, out, direction, jobs):  # type: ignore[no-untyped-def]
    """Turns x `(rows, heads, dim)` by the angles `(positions, dim)`, which rows take in turn."""
    rows, heads, dim = x.shape
    half = dim // 2
    for job in prange(jobs):
        for r in range(rows * job // jobs, rows * (job + 1) // jobs):
            at = r % len(cos)
            for head in range(heads):
                for k in range(half):
                    a, b = number(x[r, head, k]), number(x[r, head, half + k])
                    c, d = number(cos[at, k]), number(cos[at, half + k])
                    s, t = direction * number(sin[at, k]), direction * number(sin[at, half + k])
                    out[r, head, k] = stored(out, a * c + b * s)
                    out[r, head, half + k] = stored(out, b * d + a * t)


@njit(cache=True, nogil=True, parallel=True, fastmath=ROUNDING)
def norm(x, weight, eps, out, inverse, jobs):  # type: ignore[no-untyped-def]
    """`out = weight * x / rms(x)` for x `(rows, width)`, and `1 / rms(x)` `(rows,)`."""
    rows, width = x.shape
    for job in prange(jobs):
        for r in range(rows * job // jobs, rows * (job + 1) // jobs):
            total = np.float32(0)
            for k in range(width):
                v = number(x[r, k])
                total += v * v
            scale = np.float32(1) / np.sqrt(total / np.float32(width) + eps)
            inverse[r] = scale
            for k in range(width):
                out[r, k] = stored(out, number(x[r, k]) * scale * number(weight[k]))


@njit(cache=True, nogil=True, parallel=True, fastmath=ROUNDING)
def norm_gradient(x, weight, inverse, grad, out, parts, jobs):  # type: ignore[no-untyped-def]
    """With n = x / rms(x) and h = grad * weight: (h - n mean(h n)) / rms(x), and the sum of grad * n over rows."""
    rows, width = x.shape
    count = len(parts)
    for job in prange(jobs):
        for part in range(count * job // jobs, count * (job + 1) // jobs):
            for r in range(rows * part // count, rows * (part + 1) // count):
                scale, mean = inverse[r], np.float32(0)
                for k in range(width):
                    mean += number(grad[r, k]) * number(weight[k]) * number(x[r, k])
                mean *= scale * scale / np.float32(width)
                for k in range(width):
                    v, d = number(x[r, k]), number(grad[r, k])
                    out[r, k] = stored(out, (d * number(weight[k]) - v * mean) * scale)
                    parts[part, k] += d * v * scale


@njit(cache=True, nogil=True, parallel=True, fastmath=ROUNDING)
def softmax_loss(logits, targets, losses, wants_gradient, jobs):  # type: ignore[no-untyped-def]
    """Each row's cross-entropy with its target; with `wants_gradient`, the logits `(rows, vocab)` become its gradient.

    A logit that is NaN or infinite makes its row's loss NaN.
    """
    rows, vocab = logits.shape
    for job in prange(jobs):
        for r in range(rows * job // jobs, rows * (job + 1) // jobs):
            largest, plain = logits[r, 0], np.float32(0)
            for k in range(vocab):
                largest = max(largest, logits[r, k])
                plain += logits[r, k]
            target, total = logits[r, targets[r]] - largest, np.float32(0)
            if wants_gradient:
                for k in range(vocab):
                    e = _exp(logits[r, k] - largest)
                    total += e
                    logits[r, k] = e
                for k in range(vocab):
                    logits[r, k] /= total
                logits[r, targets[r]] -= np.float32(1)
            else:
                for k in range(vocab):
                    total += _exp(logits[r, k] - largest)
            losses[r] = np.log(total) - target + np.float32(0) * plain
