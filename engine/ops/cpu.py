"""The operations on a CPU, in float32: torch multiplies matrices, and compiled functions do everything between."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.attention.batch import Rows
from engine.attention.kv_cache import KVCache
from engine.ops import launch
from engine.ops.operations import LayerWeights, in_tiles
from engine.ops.sampling import SamplingTensors


class CompiledOperations:
    """tile: matrices are multiplied in tiles of so many rows: see in_tiles. Everything else computes each row alike."""

    def __init__(self, tile: int | None = None) -> None:
        self.tile = tile
        self._buffers: dict[str, Tensor] = {}

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
        out = self._buffer("projected", x.shape[0], weight.shape[0])
        return self._linear(self._norm(x, norm), weight, out)

    def write(self, kv: Tensor, rows: Rows, cache: KVCache, layer: int) -> None:
        self._write(kv, 0, rows, cache, layer)

    def self_attention(self, qkv: Tensor, rows: Rows, cache: KVCache, layer: int) -> Tensor:
        self._write(qkv, qkv.shape[1] // 3, rows, cache, layer)
        return self.cross_attention(qkv, rows, cache, layer)

    def cross_attention(self, q: Tensor, rows: Rows, cache: KVCache, layer: int) -> Tensor:
        keys, values = cache.layer(layer)
        total, heads, head_dim = keys.shape
        meta, (count, width) = rows.attention, q.shape
        branches, pages = meta.block_tables.shape
        out = self._buffer("attended", count, heads * head_dim)
        launch.attend(
            q.data_ptr(), rows.rotary.data_ptr(), rows.positions.data_ptr(), meta.starts.ctypes.data,
            meta.visible.ctypes.data, meta.block_tables.ctypes.data, keys.data_ptr(), values.data_ptr(), out.data_ptr(),
            count, width, rows.rotary.shape[0], branches, pages, meta.page_size, total, heads, head_dim,
        )  # fmt: skip
        return out

    def finish_layer(self, x: Tensor, attended: Tensor, weights: LayerWeights) -> Tensor:
        self._add_linear(x, attended, weights.output)
        rows, hidden = x.shape[0], weights.down.shape[1]
        gate_up = self._buffer("gate_up", rows, 2 * hidden)
        self._linear(self._norm(x, weights.feed_forward_norm), weights.gate_up, gate_up)
        gated = self._buffer("gated", rows, hidden)
        launch.swiglu(gate_up.data_ptr(), gated.data_ptr(), rows, hidden)
        return self._add_linear(x, gated, weights.down)

    def sample(self, logits: Tensor, params: SamplingTensors) -> Tensor:
        out = torch.empty(len(params.uniform), dtype=torch.int64)
        launch.sample(
            logits.data_ptr(), params.conditional.data_ptr(), params.unconditional.data_ptr(),
            params.guidance.data_ptr(), params.temperature.data_ptr(), params.top_k.data_ptr(),
            params.top_p.data_ptr(), params.uniform.data_ptr(), out.data_ptr(), *logits.shape, len(out),
        )  # fmt: skip
        return out

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        out = self._buffer("normed", *x.shape)
        launch.rms_norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), *x.shape)
        return out

    def _write(self, kv: Tensor, first: int, rows: Rows, cache: KVCache, layer: int) -> None:
        keys, values = cache.layer(layer)
        launch.write(
            kv.data_ptr(), rows.rotary.data_ptr(), rows.positions.data_ptr(), rows.slots.data_ptr(),
            keys.data_ptr(), values.data_ptr(), *kv.shape, first, rows.rotary.shape[0], *keys.shape,
        )  # fmt: skip

    def _linear(self, x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        if self.tile is None:
            return torch.mm(x, weight.t(), out=out)
        return out.copy_(in_tiles(lambda x: F.linear(x, weight), self.tile, x))

    def _add_linear(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """x + y · weightᵀ, in x."""
        if self.tile is None:
            return x.addmm_(y, weight.t())
        return x.add_(in_tiles(lambda y: F.linear(y, weight), self.tile, y))

    def _buffer(self, name: str, rows: int, width: int) -> Tensor:
        """(rows, width), from memory that the next step uses again."""
        size = rows * width
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = torch.empty(size + size // 2)
        return self._buffers[name][:size].view(rows, width)
