"""The CPU's compiled functions, in float32. Each works on the share of one thread: rows, or heads of branches.

A row's result depends neither on the other rows nor on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, float32, int32, njit

from engine.ops.vectors import HEAD_DIM, add_values, four_scores

f32 = np.float32
_intrinsic: Any = extending.intrinsic  # typed as if it were called as the code that it generates
COMPILE: dict[str, Any] = {
    "fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"},  # but NaN and infinity stay what they are
    "error_model": "numpy",
    "boundscheck": False,
}
QUERY_ROWS = 16
"""Rows of a branch whose scores are kept at once."""


@_intrinsic
def as_float(typing_context: Any, bits: Any) -> Any:
    """float32 from its bits, an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return float32(int32), generate


@_intrinsic
def bits(typing_context: Any, number: Any) -> Any:
    """The bits of a float32, an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return int32(float32), generate


@njit(inline="always", **COMPILE)
def exp(x: float) -> float:
    """exp(x) for x ≤ 0 (Cephes exp2f): 2 to the nearest whole power by the exponent bits, times a polynomial for the
    rest. math.exp is a call, which would keep the loops around it from being vectorised."""
    power = max(x * f32(1.4426950408889634), f32(-126.0))
    whole = np.floor(power + f32(0.5))
    rest = power - whole
    value = f32(1.5353362e-4)
    value = value * rest + f32(1.3398874e-3)
    value = value * rest + f32(9.6184373e-3)
    value = value * rest + f32(5.5503324e-2)
    value = value * rest + f32(2.4022648e-1)
    value = value * rest + f32(6.9314720e-1)
    value = value * rest + f32(1.0)
    return value * as_float((np.int32(whole) + np.int32(127)) << np.int32(23))


@njit(**COMPILE)
def rms_norm(thread, threads, x, weight, out, eps):  # type: ignore[no-untyped-def]
    """x, out (rows, dim); weight (dim,)."""
    rows, dim = x.shape
    for row in range(rows * thread // threads, rows * (thread + 1) // threads):
        total = f32(0)
        for i in range(dim):
            total += x[row, i] * x[row, i]
        scale = f32(1) / np.sqrt(total / f32(dim) + eps)
        for i in range(dim):
            out[row, i] = x[row, i] * scale * weight[i]


@njit(**COMPILE)
def guided_norm(thread, threads, x, weight, conditional, unconditional, scale, out, eps):  # type: ignore[no-untyped-def]
    """out (n, dim) = u + scale · (c - u), of the RMS norms of two rows of x."""
    _, dim = x.shape
    count = out.shape[0]
    for index in range(count * thread // threads, count * (thread + 1) // threads):
        c, u = conditional[index], unconditional[index]
        of_c, of_u = f32(0), f32(0)
        for i in range(dim):
            of_c += x[c, i] * x[c, i]
            of_u += x[u, i] * x[u, i]
        of_c, of_u = f32(1) / np.sqrt(of_c / f32(dim) + eps), f32(1) / np.sqrt(of_u / f32(dim) + eps)
        for i in range(dim):
            base = x[u, i] * of_u * weight[i]
            out[index, i] = base + (x[c, i] * of_c * weight[i] - base) * scale[index]


@njit(**COMPILE)
def embed(thread, threads, sources, tokens, table, out):  # type: ignore[no-untyped-def]
    """out (rows, dim): rows of table by id, or by the token in a slot; see attention.batch.Rows."""
    rows, dim = out.shape
    for row in range(rows * thread // threads, rows * (thread + 1) // threads):
        source = sources[row]
        id = source if source >= 0 else tokens[-2 - source]
        for i in range(dim):
            out[row, i] = table[id, i]


@njit(**COMPILE)
def swiglu(thread, threads, gate_up, out):  # type: ignore[no-untyped-def]
    """out (rows, hidden) = silu(gate) · up; gate_up (rows, 2 · hidden)."""
    rows, hidden = out.shape
    for row in range(rows * thread // threads, rows * (thread + 1) // threads):
        for i in range(hidden):
            gate = gate_up[row, i]
            small = exp(-abs(gate))
            sigmoid = (f32(1) if gate >= 0 else small) / (f32(1) + small)
            out[row, i] = gate * sigmoid * gate_up[row, hidden + i]


@njit(inline="always", **COMPILE)
def _rotate(source, start, table, position, scale, target):  # type: ignore[no-untyped-def]
    """target (head_dim,): interleaved pairs of source from start on, rotated by table[position] and scaled."""
    for pair in range(target.shape[0] // 2):
        cos, sin = table[position, pair, 0] * scale, table[position, pair, 1] * scale
        even, odd = source[start + 2 * pair], source[start + 2 * pair + 1]
        target[2 * pair] = even * cos - odd * sin
        target[2 * pair + 1] = odd * cos + even * sin


@njit(**COMPILE)
def write(thread, threads, kv, first, table, positions, slots, keys, values):  # type: ignore[no-untyped-def]
    """Rotates keys and writes keys and values to slots. kv (rows, …): keys of all heads from column first on, then the
    values; keys, values (slots, heads, head_dim)."""
    rows = kv.shape[0]
    _, heads, head_dim = keys.shape
    for row in range(rows * thread // threads, rows * (thread + 1) // threads):
        for head in range(heads):
            start = first + head * head_dim
            _rotate(kv[row], start, table, positions[row], f32(1), keys[slots[row], head])
            for i in range(head_dim):
                values[slots[row], head, i] = kv[row, start + heads * head_dim + i]


@njit(**COMPILE)
def attend(  # type: ignore[no-untyped-def]
    thread, threads, q, table, positions, starts, visible, block_tables, page_size, keys, values, out
):
    """Softmax attention of the rotated queries. q (rows, …): the queries of all heads come first; out (rows, heads ·
    head_dim). The rows of branch b are starts[b] … starts[b + 1]; its pages are block_tables[b]."""
    _, heads, head_dim = keys.shape
    branches = starts.shape[0] - 1
    scale = f32(1 / math.sqrt(head_dim))
    queries = np.empty((QUERY_ROWS, head_dim), f32)
    scores = np.empty((QUERY_ROWS, block_tables.shape[1] * page_size), f32)
    for item in range(thread, branches * heads, threads):
        branch, head = item // heads, item % heads
        pages, start = block_tables[branch], head * head_dim
        for first in range(starts[branch], starts[branch + 1], QUERY_ROWS):
            count = min(starts[branch + 1] - first, QUERY_ROWS)
            length = 0
            for row in range(count):
                length = max(length, visible[first + row])
                _rotate(q[first + row], start, table, positions[first + row], scale, queries[row])
            _scores(queries, count, keys, head, pages, page_size, length, scores)
            for row in range(count):
                seen = visible[first + row]
                _softmax(scores[row], seen)
                _mix(scores[row], values, head, pages, page_size, seen, out[first + row, start : start + head_dim])


@njit(**COMPILE)
def _scores(queries, count, keys, head, pages, page_size, length, scores):  # type: ignore[no-untyped-def]
    """scores (rows, length): dot products with the first length cached keys. Four rows at a time read a key once."""
    head_dim = queries.shape[1]
    quads = count // 4 * 4
    vectors = head_dim == HEAD_DIM
    for page in range((length + page_size - 1) // page_size):
        if vectors and quads > 0:
            start = page * page_size
            for row in range(0, quads, 4):
                four_scores(
                    queries[row].ctypes.data, keys[pages[page] * page_size, head].ctypes.data, keys.strides[0],
                    min(length, start + page_size) - start, scores[row, start:].ctypes.data, scores.strides[0],
                )  # fmt: skip
            if quads == count:
                continue
        for at in range(page * page_size, min(length, (page + 1) * page_size)):
            key = keys[pages[page] * page_size + at - page * page_size, head]
            for row in range(0, 0 if vectors else quads, 4):
                a, b, c, d = f32(0), f32(0), f32(0), f32(0)
                for i in range(head_dim):
                    a += queries[row, i] * key[i]
                    b += queries[row + 1, i] * key[i]
                    c += queries[row + 2, i] * key[i]
                    d += queries[row + 3, i] * key[i]
                scores[row, at], scores[row + 1, at], scores[row + 2, at], scores[row + 3, at] = a, b, c, d
            for row in range(quads, count):
                a = f32(0)
                for i in range(head_dim):
                    a += queries[row, i] * key[i]
                scores[row, at] = a


@njit(**COMPILE)
def _softmax(scores, count):  # type: ignore[no-untyped-def]
    highest = f32(-np.inf)
    for i in range(count):
        highest = max(highest, scores[i])
    total = f32(0)
    for i in range(count):
        weight = exp(scores[i] - highest)
        scores[i] = weight
        total += weight
    for i in range(count):
        scores[i] /= total


@njit(**COMPILE)
def _mix(weights, values, head, pages, page_size, count, out):  # type: ignore[no-untyped-def]
    """out (head_dim,): the first count cached values, weighted. Four values at a time update the output once."""
    head_dim = out.shape[0]
    for i in range(head_dim):
        out[i] = f32(0)
    for page in range((count + page_size - 1) // page_size):
        base = pages[page] * page_size - page * page_size
        end = min(count, (page + 1) * page_size)
        if head_dim == HEAD_DIM:
            start = page * page_size
            add_values(
                weights[start:].ctypes.data, values[base + start, head].ctypes.data, values.strides[0], end - start,
                out.ctypes.data,
            )  # fmt: skip
            continue
        quads = page * page_size + (end - page * page_size) // 4 * 4
        for at in range(page * page_size, quads, 4):
            v0, v1, v2, v3 = (
                values[base + at, head], values[base + at + 1, head], values[base + at + 2, head],
                values[base + at + 3, head],
            )  # fmt: skip
            w0, w1, w2, w3 = weights[at], weights[at + 1], weights[at + 2], weights[at + 3]
            for i in range(head_dim):
                out[i] += (w0 * v0[i] + w1 * v1[i]) + (w2 * v2[i] + w3 * v3[i])
        for at in range(quads, end):
            value = values[base + at, head]
            for i in range(head_dim):
                out[i] += weights[at] * value[i]
