"""The networks, a file a family; module names are those of the public checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from engine.attention.batch import Batch
from engine.attention.kv_cache import KVCache, KVShape
from engine.request import RopeScaling


class Model(nn.Module, ABC):
    """A family's network."""

    @property
    @abstractmethod
    def kv_shape(self) -> KVShape:
        """What a cached row costs."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Image tokens that it draws."""

    @abstractmethod
    def rotary(
        self, grid: tuple[int, int], trained: tuple[int, int] | None = None, rope_scaling: RopeScaling = "extrapolate"
    ) -> Tensor:
        """What each position of a row program turns by, float32 (positions, head_dim / 2, 2). trained: the grid
        that the model knows, where this one is larger and so an extension of it."""

    @abstractmethod
    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Caches the batch's cached rows; logits float32 (batch.answers, then batch.queries; vocab)."""
