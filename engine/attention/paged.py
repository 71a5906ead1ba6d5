"""paged_attention: ragged rows over a paged cache, the same call on every device.

The contract is one line: row i of sequence s sees the first visible[i] cached rows of s. Causal, block-wise and
query rows differ in that number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class AttentionMeta:
    """Which rows belong to which sequence, where its pages are, and what each row sees.

    starts: rows of sequence s are starts[s] … starts[s + 1]. Host copies serve the reference path; tables
    (sequences, pages) int32 and visible (rows,) int32 are on the device. uniform[s]: all its rows see lengths[s].
    slots[s]: where its first lengths[s] cached rows are (host only). tiles: the kernel's share of the rows.
    """

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    uniform: tuple[bool, ...]
    block_tables: Tensor
    visible: Tensor
    page_size: int
    slots: tuple[slice | Tensor, ...]
    tiles: Tensor


ROWS_A_TILE = 16


def attention_meta(
    visible: Sequence[Sequence[int]], block_tables: Sequence[Sequence[int]], page_size: int, device: torch.device
) -> AttentionMeta:
    """Metadata of one step: visible[s] lists what each row of sequence s sees, tables[s] its pages in order."""
    starts = [0]
    for rows in visible:
        starts.append(starts[-1] + len(rows))
    width = max((len(t) for t in block_tables), default=0)
    padded = torch.tensor([[*t, *[0] * (width - len(t))] for t in block_tables], dtype=torch.int32).view(-1, width)
    lengths = tuple(max(rows, default=0) for rows in visible)
    return AttentionMeta(
        starts=tuple(starts),
        lengths=lengths,
        uniform=tuple(min(rows, default=0) == length for rows, length in zip(visible, lengths, strict=True)),
        block_tables=padded.to(device),
        visible=torch.tensor([n for rows in visible for n in rows], dtype=torch.int32, device=device),
        page_size=page_size,
        slots=tuple(map(_slots, block_tables, lengths, repeat(page_size))) if device.type == "cpu" else (),
        tiles=_tiles(starts, device),
    )


def paged_attention(q: Tensor, keys: Tensor, values: Tensor, meta: AttentionMeta) -> Tensor:
    """Softmax attention of q (rows, heads, head_dim) over cached keys and values (slots, heads, head_dim)."""
    if q.shape[0] == 0:
        return q
    if q.device.type == "cuda":
        from engine.attention.triton_kernel import paged_attention_triton

        return paged_attention_triton(q, keys, values, meta)
    return paged_attention_reference(q, keys, values, meta)


def paged_attention_reference(q: Tensor, keys: Tensor, values: Tensor, meta: AttentionMeta) -> Tensor:
    """Gather each sequence's pages, then plain attention: the yardstick, and the path on a CPU."""
    out = torch.empty_like(q)
    for s, slots in enumerate(meta.slots):
        rows = slice(meta.starts[s], meta.starts[s + 1])
        if rows.start == rows.stop:
            continue
        mask = None
        if not meta.uniform[s]:
            mask = torch.arange(meta.lengths[s]) < meta.visible[rows, None]
        attended = F.scaled_dot_product_attention(
            q[rows].transpose(0, 1)[None],
            keys[slots].transpose(0, 1)[None],
            values[slots].transpose(0, 1)[None],
            attn_mask=mask,
        )
        out[rows] = attended[0].transpose(0, 1)
    return out


def _slots(table: Sequence[int], length: int, page_size: int) -> slice | Tensor:
    """The first slots of a sequence; a slice, and so no copy, where its pages follow one another."""
    first = table[0]
    if all(page == first + index for index, page in enumerate(table)):
        return slice(first * page_size, first * page_size + length)
    starts = torch.tensor(table)[:, None] * page_size
    return (starts + torch.arange(page_size)).flatten()[:length]


def _tiles(starts: Sequence[int], device: torch.device) -> Tensor:
    """Tiles (tiles, 3) int32 of the kernel: sequence, first row, end of the sequence's rows."""
    tiles = [
        (s, first, starts[s + 1])
        for s in range(len(starts) - 1)
        for first in range(starts[s], starts[s + 1], ROWS_A_TILE)
    ]
    return torch.tensor(tiles, dtype=torch.int32, device=device).view(-1, 3)
