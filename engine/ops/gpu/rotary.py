"""Rotary embedding within a kernel, and the launch that rotates keys and writes keys and values to their slots."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from engine.ops.gpu.launching import Launch


@triton.jit
def rotate_pairs(x, turns, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """As ops.functions.rotate. x (ROWS, WIDTH): interleaved pairs; turns: cos and sin of each pair, in its place."""
    even, odd = tl.split(tl.reshape(x.to(tl.float32), (ROWS, WIDTH // 2, 2)))
    cos, sin = tl.split(tl.reshape(turns, (ROWS, WIDTH // 2, 2)))
    turned = tl.join(even * cos - odd * sin, odd * cos + even * sin)
    return tl.reshape(turned, (ROWS, WIDTH)).to(x.dtype)


@triton.jit
def write_kernel(  # type: ignore[no-untyped-def]
    keys, values, kv, rotary, positions, slots, kv_stride,
    dim: tl.constexpr, head_dim: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    if slot >= 0:
        position = tl.load(positions + row)
        lane = tl.arange(0, BLOCK)[None]
        k = tl.load(kv + row * kv_stride + lane, mask=lane < dim, other=0.0)
        v = tl.load(kv + row * kv_stride + dim + lane, mask=lane < dim)
        turns = tl.load(rotary + position * head_dim + lane % head_dim, mask=lane < dim, other=0.0)
        tl.store(keys + slot * dim + lane, rotate_pairs(k, turns, 1, BLOCK), mask=lane < dim)
        tl.store(values + slot * dim + lane, v, mask=lane < dim)


def write(
    launch: Launch, kv: Tensor, rotary: Tensor, positions: Tensor, slots: Tensor, keys: Tensor, values: Tensor
) -> None:
    """Rotates the keys of kv (rows, 2 · dim; a row is contiguous) and writes keys and values (slots, heads, head_dim).

    rotary (entries, head_dim / 2, 2) float32; positions (rows,) int32: its entries. slots (rows,) int32: -1 writes
    nothing. Of rows with the same slot, one is kept.
    """
    rows, (heads, head_dim) = kv.shape[0], keys.shape[1:]
    dim = heads * head_dim
    launch(
        write_kernel, (rows,), keys, values, kv, rotary, positions, slots, kv.stride(0),
        dim=dim, head_dim=head_dim, BLOCK=triton.next_power_of_2(dim),
    )  # fmt: skip
