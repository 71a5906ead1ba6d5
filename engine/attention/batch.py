"""One step as tensors: the ragged rows of all branches of all requests."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engine.attention.metadata import AttentionMeta


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one kind, branch after branch.

    sources (N,) int32: ≥ 0 an embedding id; below 0 it is -2 - slot, for the token that KVCache.tokens has there.
    rotary (positions, head_dim / 2, 2): cos and sin of every position, and positions (N,) int32: the row's entry in it.
    slots (N,) int32: where the keys and values are written; -1 for rows that are not cached. attention: the branch of
    each row, and how much of it the row sees. conditions (branches,) int32: the embedding id of each branch's
    condition, for networks in which every row depends on it.
    """

    sources: Tensor
    rotary: Tensor
    positions: Tensor
    slots: Tensor
    attention: AttentionMeta
    conditions: Tensor | None = None

    def __len__(self) -> int:
        return self.sources.shape[0]


@dataclass(frozen=True, slots=True)
class Batch:
    """cached: rows whose keys and values stay in the cache. queries: rows that are not cached. Tokens are drawn from
    the queries where a family has such rows, otherwise from the cached ones."""

    cached: Rows
    queries: Rows
