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
    """keys and values (layers, slots, heads, head_dim); slot = page · page_size + offset. tokens int32 (slots,): the
    token that the row in a slot carries, from the step that draws it on, so that the next step finds it on the device.
    One more page than asked for: rows that only pad a batch are written to scratch_slot, which nothing reads."""

    def __init__(self, shape: KVShape, pages: int, page_size: int, *, device: torch.device, dtype: torch.dtype) -> None:
        size = (shape.layers, (pages + 1) * page_size, shape.heads, shape.head_dim)
        self.page_size = page_size
        self.scratch_slot = pages * page_size
        self.tokens = torch.zeros(size[1], device=device, dtype=torch.int32)
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
        self.copy_pages_at(*torch.tensor(pages, device=self.keys.device).unbind(-1))

    def copy_pages_at(self, source: Tensor, target: Tensor) -> None:
        """As copy_pages, with the pages int (n,) on the device."""
        for cached in (self.keys, self.values):
            paged = cached.unflatten(1, (-1, self.page_size))
            paged[:, target] = paged[:, source]

    @property
    def on_cpu(self) -> bool:
        return self.keys.device.type == "cpu"

    @property
    def heads(self) -> int:
        return self.keys.shape[2]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        return self.keys[index], self.values[index]
