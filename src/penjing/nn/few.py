"""Kernels for few tokens on a CPU, where all time goes into reading weights and keys once; compiled by numba.

    products   y = W x for one vector or a few: each row of a weight is read once, whatever the number of vectors
    rms_norm   weight * x / rms(x)
    attend     softmax(scale * q k^T) v of single queries over keys that lie in pages

PyTorch's own products reach a third of the memory's speed for one vector (float32 and bfloat16, Zen 4): they are made
for large matrices. These read the weights as they lie, in rows, without a second copy, and convert bfloat16 on the way:
a bfloat16 number is the upper half of a float32's bits.

Sums are kept in float32 (float64 for float64). `nn.paged` and `inference.direct` call these; `nn.kernels.reference`
and `F.linear` are what they are tested against.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic, overload, register_jitable
from torch import Tensor, bfloat16, float32, float64, int16

DTYPES = (float32, float64, bfloat16)
"""The dtypes that these kernels read."""

ROUNDING = {"reassoc", "contract", "nsz", "arcp"}  # sums in any order; NaN and infinity keep their meaning


def array(tensor: Tensor) -> Any:
    """The tensor's memory as numpy sees it; bfloat16 as its 16 bits."""
    return (tensor.view(int16) if tensor.dtype == bfloat16 else tensor).numpy()


@intrinsic
def _float_of(_context: Any, bits: Any) -> Any:
    """The float32 that has these 32 bits."""

    def code(_context, builder, _signature, values):  # type: ignore[no-untyped-def]
        return builder.bitcast(values[0], ir.FloatType())

    return types.float32(types.uint32), code


def number(value):  # type: ignore[no-untyped-def]
    """A stored number as one to compute with."""
    return value


@overload(number)
def _number_of(value):  # type: ignore[no-untyped-def]
    if value == types.int16:
        return lambda value: _float_of(np.uint32(np.uint16(value)) << np.uint32(16))  # type: ignore[call-arg]
    return lambda value: value


@intrinsic
def _bits_of(_context: Any, number: Any) -> Any:
    """The 32 bits of a float32."""

    def code(_context, builder, _signature, values):  # type: ignore[no-untyped-def]
        return builder.bitcast(values[0], ir.IntType(32))

    return types.uint32(types.float32), code


def stored(array, value):  # type: ignore[no-untyped-def]
    """A computed number as the array stores it."""
    return value


@overload(stored)
def _stored_in(array, value):  # type: ignore[no-untyped-def]
    if array.dtype != types.int16:
        return lambda array, value: value

    def rounded(array, value):  # type: ignore[no-untyped-def]
        bits = _bits_of(np.float32(value))  # type: ignore[call-arg, var-annotated]
        if value != value:
            return np.int16(0x7FC0)
        upper = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)  # to even
        return np.int16(np.uint16(upper))

    return rounded


def exact(array):  # type: ignore[no-untyped-def]
    """Zero, of the kind that sums over the array are kept in."""
    return np.float32(0)


@overload(exact)
def _exact_of(array):  # type: ignore[no-untyped-def]
    if array.dtype == types.float64:
        return lambda array: np.float64(0)
    return lambda array: np.float32(0)


@register_jitable
def _exp(x):  # type: ignore[no-untyped-def]
    """e^x for x <= 0 to float32's precision, in steps that a processor does for many numbers at once.

    e^x = 2^n e^r with n the nearest whole number to x / ln 2 and |r| <= ln(2) / 2, where a polynomial serves.
    """
    x = max(x, np.float32(-87.0))
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.3981999507e-3) + r * np.float32(1.9875691500e-4)
    p = np.float32(8.3334519073e-3) + r * p
    p = np.float32(4.1665795894e-2) + r * p
    p = np.float32(1.6666665459e-1) + r * p
    p = np.float32(0.5) + r * p
    p = np.float32(1.0) + r + r * r * p
    return p * _float_of(np.uint32(np.int32(n) + np.int32(127)) << np.uint32(23))  # type: ignore[call-arg]


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def product(weight, x, y, offset, job, jobs):  # type: ignore[no-untyped-def]
    """One job's share of `y[r, offset:] = W x[r]`; x is of the kind that sums are kept in."""
    rows, inputs = x.shape
    zero = exact(x)
    for i in range(len(weight) * job // jobs, len(weight) * (job + 1) // jobs):
        row = 0
        while row + 4 <= rows:  # four vectors share the reading of the weight
            a, b, c, d = zero, zero, zero, zero
            for k in range(inputs):
                w = number(weight[i, k])
                a += w * x[row, k]
                b += w * x[row + 1, k]
                c += w * x[row + 2, k]
                d += w * x[row + 3, k]
            y[row, offset + i], y[row + 1, offset + i] = stored(y, a), stored(y, b)
            y[row + 2, offset + i], y[row + 3, offset + i] = stored(y, c), stored(y, d)
            row += 4
        while row < rows:
            a = zero
            for k in range(inputs):
                a += number(weight[i, k]) * x[row, k]
            y[row, offset + i] = stored(y, a)
            row += 1


@njit(cache=True, nogil=True, parallel=True, fastmath=ROUNDING)
def products(weights, x, y, jobs):  # type: ignore[no-untyped-def]
    """`y[r] = W x[r]` for several weights `(outputs, inputs)` that lie side by side in the outputs.

    Args:
        weights: a tuple of arrays of one kind.
        x: `(rows, inputs)`.
        y: `(rows, all outputs)`, filled.
        jobs: into how many parts the outputs are cut.
    """
    rows, inputs = x.shape
    wide = np.empty((rows, inputs), type(exact(x)))
    for row in range(rows):
        for k in range(inputs):
            wide[row, k] = number(x[row, k])
    for job in prange(jobs):
        offset = 0
        for which in range(len(weights)):
            product(weights[which], wide, y, offset, job, jobs)
            offset += len(weights[which])


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def rms_norm(x, weight, eps, y):  # type: ignore[no-untyped-def]
    """`y[r] = weight * x[r] / sqrt(mean(x[r]^2) + eps)`; x, weight and y of one kind."""
    for row in range(len(x)):
        total = exact(x)
        for k in range(x.shape[1]):
            v = number(x[row, k])
            total += v * v
        scale = 1 / np.sqrt(total / x.shape[1] + eps)
        for k in range(x.shape[1]):
            y[row, k] = stored(y, number(x[row, k]) * scale * number(weight[k]))


@njit(cache=True, nogil=True)
def write(keys, values, new_keys, new_values, pages, places):  # type: ignore[no-untyped-def]
    """Puts token `t`'s keys and values, `(tokens, kv_heads, head_dim)`, at its place in its page."""
    for t in range(len(pages)):
        for head in range(keys.shape[1]):
            for d in range(keys.shape[3]):
                keys[pages[t], head, places[t], d] = new_keys[t, head, d]
                values[pages[t], head, places[t], d] = new_values[t, head, d]


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def mix(query, keys, values, kv_head, table, length, window, scale, softcap, sums):  # type: ignore[no-untyped-def]
    """Attention of the queries `(group, head_dim)` that share a key head; fills `sums`. The rest as of `attend`."""
    group, head_dim = query.shape
    page = keys.shape[2]
    first = max(0, length - window) if window > 0 else 0
    zero = exact(query)
    weights = np.empty((group, length - first), type(zero))
    for position in range(first, length):
        place, slot = table[position // page], position % page
        for g in range(group):
            score = zero
            for d in range(head_dim):
                score += query[g, d] * number(keys[place, kv_head, slot, d])
            weights[g, position - first] = score * scale
    for g in range(group):
        if softcap > 0:
            for j in range(length - first):
                weights[g, j] = softcap * np.tanh(weights[g, j] / softcap)
        largest = weights[g, 0]
        for j in range(length - first):
            largest = max(largest, weights[g, j])
        total = zero
        for j in range(length - first):
            weights[g, j] = power(weights[g, j] - largest)
            total += weights[g, j]
        for j in range(length - first):
            weights[g, j] /= total
        for d in range(head_dim):
            sums[g, d] = zero
    for position in range(first, length):
        place, slot = table[position // page], position % page
        for g in range(group):
            weight = weights[g, position - first]
            for d in range(head_dim):
                sums[g, d] += weight * number(values[place, kv_head, slot, d])


@njit(cache=True, nogil=True, parallel=True, fastmath=ROUNDING)
def attend(queries, keys, values, tables, texts, lengths, window, scale, softcap, mixed):  # type: ignore[no-untyped-def]
    """Attention of single queries, each over the keys of its own text.

    Args:
        queries: `(rows, heads, head_dim)`.
        keys: `(pages, kv_heads, page, head_dim)`.
        values: like `keys`.
        tables: `(texts, pages of a text)`, which page holds a text's tokens.
        texts: each row's text.
        lengths: how many keys each row sees, its own the last.
        window: of these, only so many last ones; 0 for all.
        scale: what scores are multiplied by, float32 (float64 for float64 queries).
        softcap: the bound of the scores, of the same kind; 0 for none.
        mixed: `(rows, heads, head_dim)`, filled.
    """
    rows, heads, head_dim = queries.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    for job in prange(rows * kv_heads):
        row, kv_head = job // kv_heads, job % kv_heads
        kind = type(exact(queries))
        query, sums = np.empty((group, head_dim), kind), np.empty((group, head_dim), kind)
        for g in range(group):
            for d in range(head_dim):
                query[g, d] = number(queries[row, kv_head * group + g, d])
        mix(query, keys, values, kv_head, tables[texts[row]], lengths[row], window, scale, softcap, sums)
        for g in range(group):
            for d in range(head_dim):
                mixed[row, kv_head * group + g, d] = stored(mixed, sums[g, d])


def power(x):  # type: ignore[no-untyped-def]
    """e^x for x <= 0."""
    return np.exp(x)


@overload(power)
def _power_of(x):  # type: ignore[no-untyped-def]
    if x == types.float32:
        return lambda x: _exp(x)
    return lambda x: np.exp(x)
