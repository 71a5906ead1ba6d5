"""The interface of a family's network. Module names are those of the public checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from engine.attention.kv_cache import KVShape
from engine.request import RopeScaling


class Model(nn.Module, ABC):
    """A family's network."""

    @property
    @abstractmethod
    def kv_shape(self) -> KVShape:
        """Size of a cached row."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of image tokens."""

    @abstractmethod
    def rotary(
        self, grid: tuple[int, int], trained: tuple[int, int] | None = None, rope_scaling: RopeScaling = "extrapolate"
    ) -> Tensor:
        """RoPE cos and sin of each position, float32 (positions, head_dim / 2, 2). trained: the grid of the training,
        where this one may be larger; rope_scaling then applies. None: this grid."""
