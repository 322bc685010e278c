"""A whole transformer block for few tokens in one call, compiled by numba: the layers of LLaMA and its kin.

    x = x + W_o attend(rope(norm_q(W_q n)), rope(norm_k(W_k n)), W_v n)      n = norm(x)
    x = x + W_d (silu(W_g m) * W_u m)                                        m = norm(x)

At one token the layers' arithmetic is small and their calls are many: a block made of PyTorch's operators takes some
thirty, each longer than its work. Here all of a block is one call with five parallel parts, one after the other. The
residual stream, queries and all that lies between the products stay in float32 (float64 for float64 weights).

`inference.blocks` calls it; the block's own `forward` is what it is tested against.
"""

import numpy as np
from numba import njit, prange

from penjing.nn.few import ROUNDING, exact, mix, number, product, stored

_FIRST = (0, 3, 3, 4, 6, 7)
"""Of the seven maps, the first of each parallel part of a block: 0 to 2 read the normed stream, and so on."""


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def _normed(x, weight, eps, y):  # type: ignore[no-untyped-def]
    """`y = weight * x / rms(x)` of one vector."""
    total = exact(x)
    for k in range(len(x)):
        total += x[k] * x[k]
    scale = 1 / np.sqrt(total / len(x) + eps)
    for k in range(len(x)):
        y[k] = x[k] * scale * number(weight[k])


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def _turned(x, cos, sin, y):  # type: ignore[no-untyped-def]
    """`nn.rope.rotate` of one head; what is beyond the rotation's width stays as it is."""
    dim, half = len(cos), len(cos) // 2
    for d in range(half):
        y[d] = x[d] * cos[d] + x[d + half] * sin[d]
        y[d + half] = x[d + half] * cos[d + half] + x[d] * sin[d + half]
    for d in range(dim, len(x)):
        y[d] = x[d]


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def _heads(kv_head, projected, mixed, vectors, eps, rotation, memory, where, numbers):  # type: ignore[no-untyped-def]
    """One key head: stores the new keys and values, and mixes for the query heads that share it."""
    query_norm, key_norm, query_bias, key_bias, value_bias = vectors
    queries, new_keys, new_values = projected
    cos, sin = rotation
    keys, values = memory
    tables, texts, lengths, pages, places = where
    head_dim, window, scale, softcap = numbers
    rows, group = len(mixed), mixed.shape[1] // head_dim // keys.shape[1]
    turned = np.empty((rows, group + 1, head_dim), type(exact(mixed)))  # of each row the queries, and last the key
    for row in range(rows):
        for g in range(group + 1):
            is_key = g == group
            first = kv_head * head_dim if is_key else (kv_head * group + g) * head_dim
            head = (new_keys if is_key else queries)[row, first : first + head_dim]
            bias, norm = (key_bias, key_norm) if is_key else (query_bias, query_norm)
            if len(bias):
                for d in range(head_dim):
                    head[d] += number(bias[first + d])
            if len(norm):
                _normed(head, norm, eps, head)
            _turned(head, cos[row], sin[row], turned[row, g])
        first, page, place = kv_head * head_dim, pages[row], places[row]
        for d in range(head_dim):
            value = new_values[row, first + d]
            if len(value_bias):
                value += number(value_bias[first + d])
            keys[page, kv_head, place, d] = stored(keys, turned[row, group, d])
            values[page, kv_head, place, d] = stored(values, value)
    for row in range(rows):  # once all keys are there: tokens of one text see each other
        sums = mixed[row].reshape((-1, head_dim))[kv_head * group : (kv_head + 1) * group]
        table, query = tables[texts[row]], turned[row, :group]
        mix(query, keys, values, kv_head, table, lengths[row], window, scale, softcap, sums)


@njit(cache=True, nogil=True, parallel=True, fastmath=ROUNDING)
def _part(part, count, jobs, maps, sources, outputs, vectors, eps, rotation, memory, where, numbers):  # type: ignore[no-untyped-def]
    """One of the five parallel parts of `block`. All in one loop, and all products in one place: each takes long to
    compile.
    """
    for job in prange(count):
        if part == 1:
            _heads(job, outputs[:3], sources[1], vectors, eps, rotation, memory, where, numbers)
        else:
            for which in range(_FIRST[part], _FIRST[part + 1]):
                product(maps[which], sources[part], outputs[which], 0, job, jobs)
        if part == 3:
            gate, up = outputs[4], outputs[5]
            for row in range(len(gate)):
                for i in range(gate.shape[1] * job // jobs, gate.shape[1] * (job + 1) // jobs):
                    gate[row, i] = gate[row, i] / (1 + np.exp(-gate[row, i])) * up[row, i]


@njit(cache=True, nogil=True, fastmath=ROUNDING)
def block(x, maps, norms, vectors, eps, rotation, memory, where, numbers, jobs):  # type: ignore[no-untyped-def]
    """Adds to the residual stream what a block's attention and perceptron write; stores the new keys and values.

    Args:
        x: `(rows, width)`, float32 (float64 for float64 weights); changed.
        maps: weights of query, key, value, output, gate, up and down, each `(outputs, inputs)`.
        norms: weights of the norms before attention and perceptron.
        vectors: weights of the query's and the key's norm, and biases of query, key and value; empty where none is.
        eps: of the norms of the residual stream, and of those of heads.
        rotation: cosines and sines, each `(rows, dim)`, as `Rope` gives them; no columns where nothing turns.
        memory: keys and values, each `(pages, kv_heads, page, head_dim)`.
        where: `tables, texts, lengths, pages, places` of the rows, as `nn.paged.Ragged` has them.
        numbers: head_dim and the window, 0 for none; then scale and softcap, 0 for none, of the kind of x.
        jobs: into how many parts the outputs are cut.
    """
    rows, kind = len(x), type(exact(x))
    normed, written = np.empty_like(x), np.empty_like(x)
    queries, mixed = np.empty((rows, len(maps[0])), kind), np.empty((rows, len(maps[0])), kind)
    keys, values = np.empty((rows, len(maps[1])), kind), np.empty((rows, len(maps[2])), kind)
    gate, up = np.empty((rows, len(maps[4])), kind), np.empty((rows, len(maps[5])), kind)
    sources, outputs = (normed, mixed, mixed, normed, gate), (queries, keys, values, written, gate, up, written)
    for row in range(rows):
        _normed(x[row], norms[0], eps[0], normed[row])
    for part in range(5):
        count = memory[0].shape[1] if part == 1 else jobs
        _part(part, count, jobs, maps, sources, outputs, vectors, eps[1], rotation, memory, where, numbers)
        if part == 2 or part == 4:
            for row in range(rows):
                for k in range(x.shape[1]):
                    x[row, k] += written[row, k]
        if part == 2:
            for row in range(rows):
                _normed(x[row], norms[1], eps[0], normed[row])
