"""The loops of `nn.tiled`, compiled by numba at first use; apart from it, since numba takes a while to import.

Everything that costs is a small matrix product, and each of them is made of one piece, `tile`: 4 rows by 16 columns,
which a processor's registers hold while it goes along the inner side once. Scores lie with the 16 queries of a block
side by side, `(keys, 16)`, so that what is done to them is done to 16 numbers at a time.

A document's keys and values are copied to where they lie together, filled up with zeros to a multiple of 16. Queries
that fill up a block have zeros for gradients, so nothing comes from them. A unit of work, one document's one key head,
belongs to one job, so no result depends on the number of jobs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from penjing.nn.few import ROUNDING, _exp

ROWS, LANES, PARTS = 4, 8, 2  # a tile has 4 rows and 2 vectors of 8 numbers: 8 of the 16 registers that all have
BLOCK = LANES * PARTS
_NUMBER, _SIZE = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_NUMBER, LANES)
_LESS_THAN_ALL, _NOTHING = np.float32(-np.inf), np.float32(0)


def _vector(builder: Any, pointer: Any, *offsets: Any) -> Any:
    """A pointer to the vector that starts so many numbers behind another."""
    for offset in offsets:
        pointer = builder.gep(pointer, [offset])
    return builder.bitcast(pointer, _VECTOR.as_pointer())


@intrinsic
def tile(
    _context: Any, a: Any, down: Any, along: Any, b: Any, b_row: Any, c: Any, c_row: Any, count: Any, add: Any
) -> Any:
    """`c[:4, :16] = a[:4, :count] @ b[:count, :16]`, or `+=` where `add`.

    `a`, `b` and `c` are addresses of float32; `a`'s next row is `down` numbers further and its next column `along`,
    the next rows of `b` and `c` are `b_row` and `c_row` numbers further.
    """

    def code(context, builder, _signature, values):  # type: ignore[no-untyped-def]
        a, down, along, b, b_row, c, c_row, count, add = values
        a, b, c = (builder.inttoptr(address, _NUMBER.as_pointer()) for address in (a, b, c))
        places = [(row, part) for row in range(ROWS) for part in range(PARTS)]
        sums = {place: cgutils.alloca_once(builder, _VECTOR) for place in places}
        cells = {
            (row, part): _vector(builder, c, builder.mul(c_row, _SIZE(row)), _SIZE(LANES * part))
            for row, part in places
        }
        with builder.if_else(add) as (adding, fresh):
            with adding:
                for place in places:
                    builder.store(builder.load(cells[place], align=4), sums[place])
            with fresh:
                for place in places:
                    builder.store(ir.Constant(_VECTOR, [0.0] * LANES), sums[place])
        rows = [builder.gep(a, [builder.mul(down, _SIZE(row))]) for row in range(ROWS)]
        with cgutils.for_range(builder, count) as loop:
            line = builder.mul(b_row, loop.index)
            factors = [builder.load(_vector(builder, b, line, _SIZE(LANES * part)), align=4) for part in range(PARTS)]
            column = builder.mul(along, loop.index)
            for row, part in places:
                if part == 0:
                    wide = _everywhere(builder, builder.load(builder.gep(rows[row], [column])))
                product = builder.fmul(wide, factors[part], flags=("contract",))
                total = builder.fadd(product, builder.load(sums[row, part]), flags=("contract",))
                builder.store(total, sums[row, part])
        for place in places:
            builder.store(builder.load(sums[place]), cells[place], align=4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8, types.boolean), code


def _everywhere(builder: Any, number: Any) -> Any:
    """A vector of one number."""
    unknown = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(unknown, number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, unknown, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _folding(step: Callable[..., Any], start: float) -> Any:
    """A loop over the rows of `(count, 16)` numbers that folds them into one row of 16."""

    @intrinsic
    def fold(_context, numbers, count, out):  # type: ignore[no-untyped-def]
        def code(context, builder, _signature, values):  # type: ignore[no-untyped-def]
            numbers, count, out = values
            numbers, out = (builder.inttoptr(address, _NUMBER.as_pointer()) for address in (numbers, out))
            folded = [cgutils.alloca_once(builder, _VECTOR) for _ in range(PARTS)]
            for part in folded:
                builder.store(ir.Constant(_VECTOR, [start] * LANES), part)
            with cgutils.for_range(builder, count) as loop:
                row = builder.mul(loop.index, _SIZE(BLOCK))
                for index, part in enumerate(folded):
                    new = builder.load(_vector(builder, numbers, row, _SIZE(LANES * index)), align=4)
                    builder.store(step(builder, builder.load(part), new), part)
            for index, part in enumerate(folded):
                builder.store(builder.load(part), _vector(builder, out, _SIZE(LANES * index)), align=4)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, types.intp), code

    return fold


_highest = _folding(lambda builder, old, new: builder.select(builder.fcmp_ordered(">", new, old), new, old), -np.inf)
_added = _folding(lambda builder, old, new: builder.fadd(old, new), 0.0)


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def _product(a, turned, b, c, rows, count, add):  # type: ignore[no-untyped-def]
    """`c[:rows] = a[:rows, :count] @ b[:count]`, or `+=` where `add`; with `turned`, `a` is there as its transpose."""
    columns = c.shape[1]
    down, along = (1, a.shape[1]) if turned else (a.shape[1], 1)
    for row in range(0, rows, ROWS):
        for column in range(0, columns, BLOCK):
            left, right = a.ctypes.data + 4 * row * down, b.ctypes.data + 4 * column  # 4 bytes a number
            place = c.ctypes.data + 4 * (row * columns + column)
            tile(left, down, along, right, columns, place, columns, count, add)  # type: ignore[call-arg]


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def _gathered(heads, head, begin, length, out):  # type: ignore[no-untyped-def]
    """`out[:length]` = one head of a document's tokens; zeros up to the next multiple of a block."""
    for j in range(length):
        for k in range(out.shape[1]):
            out[j, k] = heads[begin + j, head, k]
    for j in range(length, _padded(length)):
        for k in range(out.shape[1]):
            out[j, k] = _NOTHING


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def _padded(length):  # type: ignore[no-untyped-def]
    return (length + BLOCK - 1) // BLOCK * BLOCK


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def _hidden(scores, first, value):  # type: ignore[no-untyped-def]
    """Gives `value` to the scores of keys that come after their query; the block's first query is number `first`."""
    for r in range(BLOCK):
        for j in range(first + r + 1, first + BLOCK):
            scores[j, r] = value


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def _power(x):  # type: ignore[no-untyped-def]
    """e^x for x <= 0; what is no number stays none, so that a run stops at it."""
    return _exp(x) if x == x else x


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def _forward_share(job, jobs, query, key, value, starts, longest, scale, out, log_sums):  # type: ignore[no-untyped-def]
    heads, dim, kv_heads = query.shape[1], query.shape[2], key.shape[1]
    group, units, room = heads // kv_heads, (len(starts) - 1) * kv_heads, _padded(longest)
    keys, values = np.empty((room, dim), np.float32), np.empty((room, dim), np.float32)
    turned, mixed = np.empty((dim, BLOCK), np.float32), np.empty((BLOCK, dim), np.float32)
    scores, top, total = (
        np.empty((room, BLOCK), np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
    )
    for unit in range(job, units, jobs):
        begin, kv_head = starts[unit // kv_heads], unit % kv_heads
        length = starts[unit // kv_heads + 1] - begin
        _gathered(key, kv_head, begin, length, keys)
        _gathered(value, kv_head, begin, length, values)
        for head in range(kv_head * group, (kv_head + 1) * group):
            for first in range(0, length, BLOCK):
                rows, seen = min(BLOCK, length - first), first + BLOCK
                for r in range(BLOCK):
                    i = begin + first + min(r, rows - 1)
                    for k in range(dim):
                        turned[k, r] = query[i, head, k] * scale
                _product(keys, False, turned, scores, seen, dim, False)
                _hidden(scores, first, _LESS_THAN_ALL)
                _highest(scores.ctypes.data, seen, top.ctypes.data)
                for j in range(seen):
                    for r in range(BLOCK):
                        scores[j, r] = _power(scores[j, r] - top[r])
                _hidden(scores, first, _NOTHING)
                _added(scores.ctypes.data, seen, total.ctypes.data)
                _product(scores, True, values, mixed, BLOCK, seen, False)
                for r in range(rows):
                    i, share = begin + first + r, np.float32(1) / total[r]
                    for k in range(dim):
                        out[i, head, k] = mixed[r, k] * share
                    log_sums[i, head] = top[r] + np.log(total[r])


@njit(cache=True, nogil=True, parallel=True, fastmath=ROUNDING)
def forward(query, key, value, starts, longest, scale, out, log_sums, jobs):  # type: ignore[no-untyped-def]
    """Attention within documents.

    query and out are `(tokens, heads, dim)`, key and value `(tokens, kv_heads, dim)`; starts says where documents
    begin and, at last, the number of tokens; longest is the most tokens of one. log_sums
    `(tokens, heads)` gets log sum exp of each query's scores, for `backward`.
    """
    for job in prange(jobs):
        _forward_share(np.int64(job), np.int64(jobs), query, key, value, starts, longest, scale, out, log_sums)


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def _backward_share(  # type: ignore[no-untyped-def]
    job, jobs, query, key, value, starts, longest, scale, out, log_sums, grad, query_grad, key_grad, value_grad
):
    heads, dim, kv_heads = query.shape[1], query.shape[2], key.shape[1]
    group, units, room = heads // kv_heads, (len(starts) - 1) * kv_heads, _padded(longest)
    keys, values = np.empty((room, dim), np.float32), np.empty((room, dim), np.float32)
    key_sums, value_sums = np.empty((room, dim), np.float32), np.empty((room, dim), np.float32)
    weights, slopes = np.empty((room, BLOCK), np.float32), np.empty((room, BLOCK), np.float32)
    own, turned = np.empty((BLOCK, dim), np.float32), np.empty((dim, BLOCK), np.float32)
    pull, pull_turned = np.empty((BLOCK, dim), np.float32), np.empty((dim, BLOCK), np.float32)
    log_sum, mean, mixed = (
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
        np.empty((BLOCK, dim), np.float32),
    )
    for unit in range(job, units, jobs):
        begin, kv_head = starts[unit // kv_heads], unit % kv_heads
        length = starts[unit // kv_heads + 1] - begin
        _gathered(key, kv_head, begin, length, keys)
        _gathered(value, kv_head, begin, length, values)
        for j in range(_padded(length)):
            for k in range(dim):
                key_sums[j, k] = value_sums[j, k] = _NOTHING
        for head in range(kv_head * group, (kv_head + 1) * group):
            for first in range(0, length, BLOCK):
                rows, seen = min(BLOCK, length - first), first + BLOCK
                for r in range(rows):
                    i, total = begin + first + r, _NOTHING
                    for k in range(dim):
                        own[r, k] = turned[k, r] = query[i, head, k] * scale
                        pull[r, k] = pull_turned[k, r] = grad[i, head, k]
                        total += grad[i, head, k] * out[i, head, k]
                    mean[r], log_sum[r] = total, log_sums[i, head]
                for r in range(rows, BLOCK):
                    for k in range(dim):
                        own[r, k] = turned[k, r] = pull[r, k] = pull_turned[k, r] = _NOTHING
                    mean[r] = log_sum[r] = _NOTHING
                _product(keys, False, turned, weights, seen, dim, False)
                _product(values, False, pull_turned, slopes, seen, dim, False)
                _hidden(weights, first, _LESS_THAN_ALL)
                for j in range(seen):
                    for r in range(BLOCK):
                        weight = _power(weights[j, r] - log_sum[r])
                        weights[j, r] = weight
                        slopes[j, r] = weight * (slopes[j, r] - mean[r])
                _hidden(weights, first, _NOTHING)
                _hidden(slopes, first, _NOTHING)
                _product(slopes, True, keys, mixed, BLOCK, seen, False)
                for r in range(rows):
                    for k in range(dim):
                        query_grad[begin + first + r, head, k] = mixed[r, k] * scale
                _product(slopes, False, own, key_sums, seen, BLOCK, True)
                _product(weights, False, pull, value_sums, seen, BLOCK, True)
        for j in range(length):
            for k in range(dim):
                key_grad[begin + j, kv_head, k] = key_sums[j, k]
                value_grad[begin + j, kv_head, k] = value_sums[j, k]


@njit(cache=True, nogil=True, parallel=True, fastmath=ROUNDING)
def backward(query, key, value, starts, longest, scale, out, log_sums, grad, query_grad, key_grad, value_grad, jobs):  # type: ignore[no-untyped-def]
    """The gradients of query, key and value, from that of out and what `forward` left; shapes as there."""
    for job in prange(jobs):
        _backward_share(
            np.int64(job),
            np.int64(jobs),
            query,
            key,
            value,
            starts,
            longest,
            scale,
            out,
            log_sums,
            grad,
            query_grad,
            key_grad,
            value_grad,
        )
