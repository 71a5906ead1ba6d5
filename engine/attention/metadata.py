"""Metadata of one step's attention: which rows belong to which branch, where its pages are, what each row sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ROWS_A_TILE = 16
"""Rows that one program of the kernel computes at most."""


@dataclass(frozen=True, slots=True)
class AttentionMeta:
    """Metadata of the rows of one step, branch after branch.

    starts (branches + 1,) int32: the rows of branch b are starts[b] … starts[b + 1].
    visible (rows,) int32: how many cached rows of its branch each row sees.
    block_tables (branches, pages) int32: the pages of each branch in order, padded with 0.
    on_device: for a GPU.
    """

    starts: np.ndarray
    visible: np.ndarray
    block_tables: np.ndarray
    page_size: int
    on_device: DeviceMeta | None


@dataclass(frozen=True, slots=True)
class DeviceMeta:
    """What the GPU's kernel reads. tiles (tiles, 3) int32: branch, first row, end of the branch's rows, for each."""

    visible: Tensor
    block_tables: Tensor
    tiles: Tensor


def attention_meta(
    starts: np.ndarray, visible: np.ndarray, block_tables: np.ndarray, page_size: int, device: torch.device
) -> AttentionMeta:
    """All int32 and contiguous, as AttentionMeta has them."""
    on_device = None if device.type == "cpu" else device_meta(starts, visible, block_tables, device)
    return AttentionMeta(starts, visible, block_tables, page_size, on_device)


def device_meta(starts: np.ndarray, visible: np.ndarray, block_tables: np.ndarray, device: torch.device) -> DeviceMeta:
    return DeviceMeta(
        visible=torch.from_numpy(visible).to(device),
        block_tables=torch.from_numpy(block_tables).to(device),
        tiles=torch.from_numpy(_tiles(starts)).to(device),
    )


def _tiles(starts: np.ndarray) -> np.ndarray:
    counts = np.diff(starts)
    tiles = -(-counts // ROWS_A_TILE)
    branch = np.repeat(np.arange(len(counts)), tiles)
    within = np.arange(tiles.sum()) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    first = starts[branch] + ROWS_A_TILE * within
    return np.stack([branch, first, starts[branch + 1]], axis=-1).astype(np.int32)
