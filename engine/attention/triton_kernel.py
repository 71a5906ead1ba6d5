"""The Triton kernel behind paged_attention: any page size, any head_dim, float32 or half precision."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.attention.metadata import ROWS_A_TILE, AttentionMeta, device_meta

KEYS_A_BLOCK = 64


@triton.jit(do_not_specialize=["table_width"])
def _kernel(  # type: ignore[no-untyped-def]
    out, q, keys, values, tiles, block_tables, visible, scale, table_width,
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
    at_row = (row[:, None] * heads + head) * head_dim + lane[None]
    mask_row = in_rows[:, None] & (lane[None] < head_dim)
    query = tl.load(q + at_row, mask=mask_row, other=0.0)
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
        weights = tl.exp(scores - anchor[:, None])
        shrink = tl.exp(highest - anchor)
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        highest = higher
    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out + at_row, mixed.to(out.dtype.element_ty), mask=mask_row)


def paged_attention_triton(q: Tensor, keys: Tensor, values: Tensor, meta: AttentionMeta) -> Tensor:
    """As paged_attention. Each program computes one tile of rows for one head over all keys: without a split over the
    keys, a row's result does not depend on the other rows."""
    q = q.contiguous()
    out = torch.empty_like(q)
    device = meta.on_device or device_meta(meta.starts, meta.visible, meta.block_tables, q.device)
    _, heads, head_dim = q.shape
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():  # Triton launches on the current device
        _kernel[(heads, device.tiles.shape[0])](
            out, q, keys, values, device.tiles, device.block_tables, device.visible, head_dim**-0.5,
            device.block_tables.shape[1],
            heads=heads, head_dim=head_dim, page_size=meta.page_size,
            BLOCK_M=ROWS_A_TILE, BLOCK_N=KEYS_A_BLOCK, BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
        )  # fmt: skip
    return out
