"""One step as tensors: the ragged rows of all branches of all requests."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engine.attention.metadata import AttentionMeta


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one kind, branch after branch.

    tokens (N,): embedding ids. rotary (positions, head_dim / 2, 2): cos and sin of every position, and positions (N,)
    int32: the row's entry in it. slots (N,) int32: where the keys and values are written; empty for rows that are not
    cached. attention: the branch of each row, and how much of it the row sees.
    """

    tokens: Tensor
    rotary: Tensor
    positions: Tensor
    slots: Tensor
    attention: AttentionMeta

    def __len__(self) -> int:
        return self.tokens.shape[0]


@dataclass(frozen=True, slots=True)
class Batch:
    """cached: rows whose keys and values stay in the cache. queries: rows that are not cached; all of them want logits.
    logits_indices (M,): which cached rows want logits. A model returns the logits of these first, then those of the
    queries."""

    cached: Rows
    queries: Rows
    logits_indices: Tensor
