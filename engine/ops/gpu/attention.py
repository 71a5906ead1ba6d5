"""Paged attention with the rotation of the queries: any page size, any even head_dim, float32 or half precision."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.ops.gpu.launching import Launch
from engine.ops.gpu.rotary import rotate_pairs


@triton.jit(do_not_specialize=["table_width"])
def attention_kernel(  # type: ignore[no-untyped-def]
    out, q, keys, values, rotary, positions, tiles, block_tables, visible, scale, q_stride, table_width,
    heads: tl.constexpr, head_dim: tl.constexpr, page_size: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)  # neighbouring programs read the same pages
    tile = tl.program_id(1)
    branch = tl.load(tiles + tile * 3)
    first = tl.load(tiles + tile * 3 + 1)
    end = tl.load(tiles + tile * 3 + 2)

    row = first + tl.arange(0, BLOCK_M)
    lane = tl.arange(0, BLOCK_D)
    in_rows = row < end
    mask_row = in_rows[:, None] & (lane[None] < head_dim)
    wide_row = row.to(tl.int64)[:, None]
    query = tl.load(q + wide_row * q_stride + head * head_dim + lane[None], mask=mask_row, other=0.0)
    position = tl.load(positions + row, mask=in_rows, other=0)
    turns = tl.load(rotary + position[:, None] * head_dim + lane[None], mask=mask_row, other=0.0)
    query = rotate_pairs(query, turns, BLOCK_M, BLOCK_D)
    seen = tl.load(visible + row, mask=in_rows, other=0)
    length = tl.max(seen, 0)

    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    mixed = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in range(0, length, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        in_keys = key < length
        page = tl.load(block_tables + branch * table_width + key // page_size, mask=in_keys, other=0)
        slot = page.to(tl.int64) * page_size + key % page_size
        at_key = (slot[:, None] * heads + head) * head_dim + lane[None]
        mask_key = in_keys[:, None] & (lane[None] < head_dim)
        k = tl.load(keys + at_key, mask=mask_key, other=0.0)
        v = tl.load(values + at_key, mask=mask_key, other=0.0)
        scores = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(key[None] < seen[:, None], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        # A row that has seen nothing yet (padding) keeps -inf; a finite stand-in avoids inf - inf.
        anchor = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - anchor[:, None])
        shrink = tl.exp2(highest - anchor)
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        highest = higher
    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    at_out = (wide_row * heads + head) * head_dim + lane[None]
    tl.store(out + at_out, mixed.to(out.dtype.element_ty), mask=mask_row)


def paged_attention(
    launch: Launch, q: Tensor, rotary: Tensor, positions: Tensor, keys: Tensor, values: Tensor,
    *, tiles: Tensor, block_tables: Tensor, visible: Tensor, page_size: int, rows_a_tile: int,
) -> Tensor:  # fmt: skip
    """Rotates q (rows, heads · head_dim), then attends: (rows, heads · head_dim). Each row of q is contiguous; the rows
    may overlap (stride 0).

    Each program computes one tile of rows for one head over all keys: without a split over the keys, a row's result
    does not depend on the other rows.
    """
    rows, (heads, head_dim) = q.shape[0], keys.shape[1:]
    out = torch.empty(rows, heads * head_dim, dtype=q.dtype, device=q.device)
    launch(
        attention_kernel, (heads, tiles.shape[0]),
        out, q, keys, values, rotary, positions, tiles, block_tables, visible,
        head_dim**-0.5 * math.log2(math.e), q.stride(0), block_tables.shape[1],
        heads=heads, head_dim=head_dim, page_size=page_size, BLOCK_M=rows_a_tile, **blocks(head_dim, q.dtype),
    )  # fmt: skip
    return out


def blocks(head_dim: int, dtype: torch.dtype) -> dict[str, int]:
    """BLOCK_D lanes, at least the 16 that a product takes; BLOCK_N keys at a time, as many as registers allow."""
    lanes = max(16, triton.next_power_of_2(head_dim))
    keys = 64 if dtype.itemsize == 2 else 32
    return {"BLOCK_D": lanes, "BLOCK_N": keys, "num_warps": 4, "num_stages": 3}
