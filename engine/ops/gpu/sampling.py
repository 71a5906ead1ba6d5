"""Logits to tokens in one launch: temperature, top-k, top-p, the draw, and the scatter to where the next step reads.

One program holds a row of weights exp((logit - highest) / temperature) in registers. Their masses are whole multiples
of 2⁻⁴⁴, so sums are exact and the draw does not depend on the order of addition. Filters need no sort: bisection over
the bits of a weight finds the smallest one that stays.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.ops.gpu.launching import Launch
from engine.ops.sampling import NO_TOKEN

CHUNK = 512
"""Tokens whose masses are added first; the draw then searches one chunk."""

UNIT = tl.constexpr(2.0**44)
ONE = tl.constexpr(0x3F800000)
"""The bits of 1.0, the greatest weight. Bits of floats ≥ 0 are ordered as the floats are."""
NOTHING = tl.constexpr(NO_TOKEN)


@triton.jit
def _weights(logits, highest, temperature):  # type: ignore[no-untyped-def]
    """The bits of weights in [0, 1], of logits of which padding is -inf."""
    return tl.exp((logits - highest) / temperature).to(tl.int32, bitcast=True)


@triton.jit
def _mass(bits):  # type: ignore[no-untyped-def]
    """Computed wherever it is needed, because a row's masses take twice the registers of its weights."""
    return (bits.to(tl.float32, bitcast=True) * UNIT).to(tl.int64)


@triton.jit
def _mass_above(bits, threshold):  # type: ignore[no-untyped-def]
    return tl.sum(tl.sum(_mass(tl.where(bits > threshold, bits, 0)), 1), 0)


@triton.jit
def _filter(bits, top_k, top_p):  # type: ignore[no-untyped-def]
    """(threshold, ties): greater weights stay, and of those with the bits `threshold` the first `ties`."""
    threshold = -1
    ties = 0
    if top_k > 0:
        low = 0  # top_k weights or more are at least this
        high = ONE + 1  # fewer are at least this
        for _ in range(30):
            middle = (low + high) // 2
            enough = tl.sum(tl.sum((bits >= middle).to(tl.int32), 1), 0) >= top_k
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle)
        threshold = low
        ties = top_k - tl.sum(tl.sum((bits > low).to(tl.int32), 1), 0)
    if top_p < 1.0:
        # A token stays while those before it hold less than top_p of what top-k left.
        left = _mass_above(bits, threshold) + _mass(tl.maximum(threshold, 0)) * ties
        part = top_p.to(tl.float64) * left.to(tl.float64)
        enough_mass = part.to(tl.int64)
        enough_mass = tl.maximum(enough_mass + (enough_mass.to(tl.float64) < part).to(tl.int64), 1)
        low = -1  # greater weights hold enough, or all are greater
        high = ONE + 0  # greater weights hold less
        for _ in range(30):
            middle = (low + high) // 2
            less = _mass_above(bits, middle) < enough_mass
            high = tl.where(less, middle, high)
            low = tl.where(less, low, middle)
        each = tl.maximum(_mass(high), 1)
        ties_p = ((enough_mass - _mass_above(bits, high) + each - 1) // each).to(tl.int32)
        ties = tl.where(high > threshold, ties_p, tl.minimum(ties, ties_p))
        threshold = tl.maximum(threshold, high)
    return threshold, ties


@triton.jit
def _draw(  # type: ignore[no-untyped-def]
    logits, x, highest, temperature, top_k, top_p, uniform, vocab,
    FILTERED: tl.constexpr, CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The first token whose cumulative mass, of what the filters leave, exceeds uniform. x: the row's logits."""
    bits = _weights(x, highest, temperature)
    threshold = -1
    ties = 0
    if FILTERED:
        threshold, ties = _filter(bits, tl.minimum(top_k, vocab), top_p)

    chunk = tl.arange(0, CHUNKS)
    tied = tl.sum((bits == threshold).to(tl.int32), 1)
    ties_left = tl.minimum(tl.maximum(ties - (tl.cumsum(tied, 0) - tied), 0), tied)
    masses = tl.sum(_mass(tl.where(bits > threshold, bits, 0)), 1) + ties_left * _mass(tl.maximum(threshold, 0))
    total = tl.sum(masses, 0)
    aim = tl.minimum((uniform * total.to(tl.float64)).to(tl.int64), total - 1)
    at = tl.minimum(tl.sum((tl.cumsum(masses, 0) <= aim).to(tl.int32), 0), CHUNKS - 1)

    before = tl.sum(tl.where(chunk < at, masses, 0), 0)
    ties = ties - tl.sum(tl.where(chunk < at, tied, 0), 0)
    token = at * CHUNK + tl.arange(0, CHUNK)
    bits = _weights(tl.load(logits + token, mask=token < vocab, other=float("-inf")), highest, temperature)
    tie = (bits == threshold).to(tl.int32)
    stays = (bits > threshold) | ((tie > 0) & (tl.cumsum(tie, 0) <= ties))
    cumulative = before + tl.cumsum(_mass(tl.where(stays, bits, 0)), 0)
    return tl.minimum(at * CHUNK + tl.sum((cumulative <= aim).to(tl.int32), 0), vocab - 1)


@triton.jit
def sample_kernel(  # type: ignore[no-untyped-def]
    out, logits, temperature, top_k, top_p, uniform, targets, tokens, vocab,
    GREEDY: tl.constexpr, FILTERED: tl.constexpr, CHUNKS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    logits += row.to(tl.int64) * vocab
    ids = tl.arange(0, CHUNKS)[:, None] * CHUNK + tl.arange(0, CHUNK)[None]
    x = tl.load(logits + ids, mask=ids < vocab, other=float("-inf"))
    finite = tl.abs(x) < float("inf")
    broken = tl.sum(tl.sum(((ids < vocab) & (finite == 0)).to(tl.int32), 1), 0)
    x = tl.where(finite, x, float("-inf"))
    highest = tl.max(tl.max(x, 1), 0)
    token = tl.min(tl.min(tl.where(x == highest, ids, vocab), 1), 0)
    if not GREEDY:
        heat = tl.load(temperature + row)
        if (heat > 0) & (broken == 0):
            token = _draw(
                logits, x, highest, tl.maximum(heat, 1e-5), tl.load(top_k + row).to(tl.int32), tl.load(top_p + row),
                tl.load(uniform + row), vocab, FILTERED, CHUNKS, CHUNK,
            )  # fmt: skip
    token = tl.where(broken > 0, NOTHING, token)
    tl.store(out + row, token)
    target = tl.load(targets + row)
    tl.store(tokens + target, token, mask=target >= 0)


def sample(
    launch: Launch, logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, uniform: Tensor,
    targets: Tensor, tokens: Tensor, *, greedy: bool, filtered: bool,
) -> Tensor:  # fmt: skip
    """As ops.sampling.sample, of contiguous logits (n, vocab) float32: tokens (n,) int32, also written to
    tokens[targets], where the target is not negative.

    It differs from the reference where a random number lies within float32 rounding of the border between two tokens,
    or top_p within rounding of a cumulative probability; and tokens 2⁴⁴ times rarer than the likeliest are not drawn.
    """
    rows, vocab = logits.shape
    out = torch.empty(rows, dtype=torch.int32, device=logits.device)
    launch(
        sample_kernel, (rows,), out, logits, temperature, top_k, top_p, uniform, targets, tokens, vocab,
        GREEDY=greedy, FILTERED=filtered and not greedy, **chunks(vocab),
    )  # fmt: skip
    return out


def chunks(vocab: int) -> dict[str, int]:
    """32 weights a thread at most, which stay in registers up to 32 thousand tokens."""
    block = triton.next_power_of_2(vocab)
    chunk = min(block, CHUNK)
    return {"CHUNKS": block // chunk, "CHUNK": chunk, "num_warps": min(max(block // 1024, 4), 32)}
