"""The networks, a file a family; module names are those of the public checkpoints."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from engine.batch import Batch
from engine.kv_cache import KVCache, KVShape


class Model(Protocol):
    """A family's forward pass."""

    @property
    def kv_shape(self) -> KVShape: ...

    def __call__(self, batch: Batch, cache: KVCache) -> Tensor:
        """Caches the batch's cached rows; logits float32 (batch.answers, then batch.queries; vocab)."""
        ...
