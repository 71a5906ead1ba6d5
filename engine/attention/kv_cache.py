"""The paged KV cache: keys and values of every layer, addressed by slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class KVShape(NamedTuple):
    """Size of one cached row. layers counts the layers that keep keys and values."""

    layers: int
    heads: int
    head_dim: int

    def bytes_per_row(self, dtype: torch.dtype) -> int:
        return 2 * self.layers * self.heads * self.head_dim * dtype.itemsize


class KVCache:
    """keys and values (layers, pages · page_size, heads, head_dim); slot = page · page_size + offset."""

    def __init__(self, shape: KVShape, pages: int, page_size: int, *, device: torch.device, dtype: torch.dtype) -> None:
        size = (shape.layers, pages * page_size, shape.heads, shape.head_dim)
        self.page_size = page_size
        self.keys = torch.zeros(size, device=device, dtype=dtype)
        self.values = torch.zeros(size, device=device, dtype=dtype)

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write keys and values (rows, heads, head_dim) of one layer to slots (rows,)."""
        self.keys[layer].index_copy_(0, slots.long(), keys)
        self.values[layer].index_copy_(0, slots.long(), values)

    def copy_pages(self, pages: Sequence[tuple[int, int]]) -> None:
        """Copy pages (from, to) in all layers. No page is both a source and a target."""
        if not pages:
            return
        source, target = torch.tensor(pages, device=self.keys.device).unbind(-1)
        for cached in (self.keys, self.values):
            paged = cached.unflatten(1, (-1, self.page_size))
            paged[:, target] = paged[:, source]

    @property
    def heads(self) -> int:
        return self.keys.shape[2]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        return self.keys[index], self.values[index]
