"""Metadata of one step's attention: which rows belong to which branch, where its pages are, what each row sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

ROWS_A_TILE = 16
"""Rows that one program of the kernel computes at most."""


@dataclass(frozen=True, slots=True)
class AttentionMeta:
    """Metadata of the rows of one step, branch after branch.

    starts: the rows of branch b are starts[b] … starts[b + 1].
    lengths[b]: how many cached rows of branch b its rows see at most.
    uniform[b]: all rows of branch b see lengths[b] cached rows, so attention needs no mask.
    block_tables (branches, pages) int32, on the device: the pages of each branch in order, padded with 0.
    visible (rows,) int32, on the device: how many cached rows of its branch each row sees.
    slots[b]: where the first lengths[b] cached rows are; filled on a CPU only, where the reference path reads it.
    tiles (tiles, 3) int32, on the device: branch, first row, end of the branch's rows, for each tile of the kernel.
    """

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    uniform: tuple[bool, ...]
    block_tables: Tensor
    visible: Tensor
    page_size: int
    slots: tuple[slice | Tensor, ...]
    tiles: Tensor


def attention_meta(
    visible: Sequence[Sequence[int]], block_tables: Sequence[Sequence[int]], page_size: int, device: torch.device
) -> AttentionMeta:
    """visible[b]: what each row of branch b sees; block_tables[b]: the branch's pages in order."""
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


def _slots(table: Sequence[int], length: int, page_size: int) -> slice | Tensor:
    """The first slots of a branch; a slice, and so no copy, where its pages follow one another."""
    first = table[0]
    if all(page == first + index for index, page in enumerate(table)):
        return slice(first * page_size, first * page_size + length)
    starts = torch.tensor(table)[:, None] * page_size
    return (starts + torch.arange(page_size)).flatten()[:length]


def _tiles(starts: Sequence[int], device: torch.device) -> Tensor:
    tiles = [
        (branch, first, starts[branch + 1])
        for branch in range(len(starts) - 1)
        for first in range(starts[branch], starts[branch + 1], ROWS_A_TILE)
    ]
    return torch.tensor(tiles, dtype=torch.int32, device=device).view(-1, 3)
