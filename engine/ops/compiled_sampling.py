"""The CPU's compiled draw of tokens, in float32. See `compiled`."""

from __future__ import annotations

import numpy as np
from numba import njit

from engine.ops.compiled import COMPILE, bits, exp, f32
from engine.ops.sampling import NO_TOKEN

INFINITY = np.int32(0x7F800000)
"""The bits of a float32; those of NaN are greater."""


@njit(**COMPILE)
def sample(  # type: ignore[no-untyped-def]
    thread, threads, logits, temperature, top_k, top_p, uniform, slots, tokens, out
):
    """As sampling.sample. Overwrites the logits (n, vocab). slots: where in tokens each drawn token is kept; -1:
    nowhere."""
    vocab = logits.shape[1]
    for index in range(thread, out.shape[0], threads):
        weights = logits[index]
        best, magnitude = 0, np.int32(0)
        for i in range(vocab):
            magnitude = max(magnitude, bits(weights[i]) & np.int32(0x7FFFFFFF))
            if weights[i] > weights[best]:
                best = i
        if magnitude >= INFINITY:
            out[index] = NO_TOKEN
        elif temperature[index] == 0:
            out[index] = best
        else:
            highest, inverse = weights[best], f32(1) / max(temperature[index], f32(1e-5))
            for i in range(vocab):
                weights[i] = exp((weights[i] - highest) * inverse)
            if top_k[index] > 0 or top_p[index] < 1:
                _filter(weights, top_k[index], top_p[index])
            out[index] = _draw(weights, uniform[index])
        if slots[index] >= 0:
            tokens[slots[index]] = out[index]


@njit(**COMPILE)
def _filter(weights, top_k, top_p):  # type: ignore[no-untyped-def]
    """Sets the weights that top-k and then top-p exclude to 0."""
    order = np.argsort(-weights, kind="mergesort")
    kept = order.shape[0] if top_k == 0 else min(top_k, order.shape[0])
    total = f32(0)
    for rank in range(kept):
        total += weights[order[rank]]
    before = f32(0)
    for rank in range(order.shape[0]):
        weight = weights[order[rank]]
        if rank >= kept or before >= top_p * total:
            weights[order[rank]] = f32(0)
        before += weight


@njit(error_model="numpy")
def _draw(weights, uniform):  # type: ignore[no-untyped-def]
    """The inverse of the cumulative distribution at uniform; in float64, in order."""
    total = 0.0
    for weight in weights:
        total += weight
    threshold, cumulative, last = uniform * total, 0.0, 0
    for i in range(weights.shape[0]):
        cumulative += weights[i]
        if weights[i] > 0:
            last = i
        if cumulative > threshold:
            return i
    return last
