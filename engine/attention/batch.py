"""One packed step: the ragged rows of many requests and branches, as tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.attention.paged import AttentionMeta


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one kind, sequence after sequence.

    tokens (N,) embedding ids; rotary (N, head_dim / 2, 2); slots (N,) where keys and values go (empty for rows
    that are not cached); attention says which sequence a row belongs to and how much of it the row sees.
    """

    tokens: Tensor
    rotary: Tensor
    slots: Tensor
    attention: AttentionMeta
    tile: int | None = None

    def map(self, function: Callable[..., Any], *rows: Tensor) -> Any:
        """function over rows; with a tile in fixed, padded tiles, so that a row's bits don't depend on how
        many neighbours it has (a matrix product rounds differently at another number of rows)."""
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
    """cached: rows whose keys and values stay. queries: rows that only ask, all of which want logits.
    answers (M,): the cached rows that want logits as well; a model returns theirs first, then the queries'."""

    cached: Rows
    queries: Rows
    logits_indices: Tensor
