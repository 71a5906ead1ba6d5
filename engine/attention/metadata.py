"""Metadata of one step's attention: which rows belong to which branch, where its pages are, what each row sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

ROWS_A_TILE = 16
"""Rows that one program of the kernel computes at most."""


@dataclass(frozen=True, slots=True)
class AttentionMeta:
    """Metadata of the rows of one step, branch after branch, all int32.

    starts (branches + 1,): the rows of branch b are starts[b] … starts[b + 1].
    visible (rows,): how many cached rows of its branch each row sees.
    block_tables (branches, pages): the pages of each branch in order, padded with 0.
    tiles (tiles, 3): for the kernel on a GPU: branch, first row, end of the branch's rows; see tiles_of.
    """

    starts: Tensor
    visible: Tensor
    block_tables: Tensor
    page_size: int
    tiles: Tensor | None = None


def tiles_of(starts: np.ndarray) -> np.ndarray:
    """The tiles of rows that begin at `starts`, of ROWS_A_TILE rows at most, none across branches."""
    counts = np.diff(starts)
    tiles = -(-counts // ROWS_A_TILE)
    branch = np.repeat(np.arange(len(counts)), tiles)
    within = np.arange(tiles.sum()) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    first = starts[branch] + ROWS_A_TILE * within
    return np.stack([branch, first, starts[branch + 1]], axis=-1).astype(np.int32)
