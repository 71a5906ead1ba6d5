"""One step as tensors: the ragged rows of all branches of all requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.attention.metadata import AttentionMeta


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one kind, branch after branch.

    tokens (N,): embedding ids. rotary (N, head_dim / 2, 2): cos and sin of each row's position. slots (N,): where the
    keys and values are written; empty for rows that are not cached. attention: the branch of each row, and how much of
    it the row sees. tile: rows in a fixed tile; None: no tiles.
    """

    tokens: Tensor
    rotary: Tensor
    slots: Tensor
    attention: AttentionMeta
    tile: int | None = None

    def map(self, function: Callable[..., Any], *rows: Tensor) -> Any:
        """Call a row-by-row function on the rows. With a tile it is called on padded tiles of that size: a matrix
        product rounds differently at another number of rows, and so a row's bits don't depend on how many others there
        are."""
        if self.tile is None:
            return function(*rows)
        n = rows[0].shape[0]
        padded = [F.pad(r, (0, 0) * (r.dim() - 1) + (0, -n % self.tile)).split(self.tile) for r in rows]
        parts = [function(*tiles) for tiles in zip(*padded, strict=True)] or [function(*rows)]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)[:n]
        return tuple(torch.cat(column)[:n] for column in zip(*parts, strict=True))


@dataclass(frozen=True, slots=True)
class Batch:
    """cached: rows whose keys and values stay in the cache. queries: rows that are not cached; all of them want logits.
    logits_indices (M,): which cached rows want logits. A model returns the logits of these first, then those of the
    queries."""

    cached: Rows
    queries: Rows
    logits_indices: Tensor
