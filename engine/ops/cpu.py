"""The operations on a CPU, in float32: torch multiplies matrices, and compiled functions do everything between."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.attention.batch import Rows
from engine.attention.kv_cache import KVCache
from engine.ops.guidance import Guidance
from engine.ops.operations import LayerWeights, in_tiles
from engine.ops.packed_matrix import pack_matrix, padded_rows, product
from engine.ops.sampling import SamplingTensors


class CompiledOperations:
    """tile: matrices are multiplied in tiles of so many rows: see in_tiles. Everything else computes each row alike."""

    def __init__(self, tile: int | None = None) -> None:
        # Here, because the import compiles functions. Raises ImportError without numba, or if torch has another OpenMP.
        from engine.ops import launch

        self._launch = launch
        self.tile = tile
        self._buffers: dict[str, Tensor] = {}

    def matrix(self, weight: Tensor) -> Tensor:
        return pack_matrix(weight)

    def embed(self, rows: Rows, tokens: Tensor, table: Tensor) -> Tensor:
        out = self._buffer("embedded", len(rows), table.shape[1])
        self._launch.embed(
            rows.sources.data_ptr(), tokens.data_ptr(), table.data_ptr(), out.data_ptr(),
            len(rows), len(tokens), *table.shape,
        )  # fmt: skip
        return out

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
        return self._product(self._norm(x, norm), weight)

    def write(self, kv: Tensor, rows: Rows, cache: KVCache, layer: int) -> None:
        self._write(kv, 0, rows, cache, layer)

    def self_attention(self, qkv: Tensor, rows: Rows, cache: KVCache, layer: int) -> Tensor:
        self._write(qkv, qkv.shape[1] // 3, rows, cache, layer)
        return self.cross_attention(qkv, rows, cache, layer)

    def cross_attention(self, q: Tensor, rows: Rows, cache: KVCache, layer: int) -> Tensor:
        keys, values = cache.layer(layer)
        total, heads, head_dim = keys.shape
        q = q.contiguous()
        meta, (count, width) = rows.attention, q.shape
        branches, pages = meta.block_tables.shape
        out = self._buffer("attended", count, heads * head_dim)
        self._launch.attend(
            q.data_ptr(), rows.rotary.data_ptr(), rows.positions.data_ptr(), meta.starts.data_ptr(),
            meta.visible.data_ptr(), meta.block_tables.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr(),
            count, width, rows.rotary.shape[0], branches, pages, meta.page_size, total, heads, head_dim,
        )  # fmt: skip
        return out

    def finish_layer(self, x: Tensor, attended: Tensor, weights: LayerWeights) -> Tensor:
        x = torch.add(x, self._product(attended, weights.output), out=self._buffer("hidden", *x.shape))
        gate_up = self._product(self._norm(x, weights.feed_forward_norm), weights.gate_up)
        gated = self._buffer("gated", x.shape[0], weights.down.shape[1])
        self._launch.swiglu(gate_up.data_ptr(), gated.data_ptr(), *gated.shape)
        return x.add_(self._product(gated, weights.down))

    def logits(self, x: Tensor, norm: Tensor, weight: Tensor, guidance: Guidance) -> Tensor:
        count = len(guidance.scale)
        guided = self._buffer("guided", count, x.shape[1])
        self._launch.guided_norm(
            x.data_ptr(), norm.data_ptr(), guidance.conditional.data_ptr(), guidance.unconditional.data_ptr(),
            guidance.scale.data_ptr(), guided.data_ptr(), count, *x.shape,
        )  # fmt: skip
        return self._product(guided, weight)

    def sample(self, logits: Tensor, params: SamplingTensors, tokens: Tensor) -> Tensor:
        out = torch.empty(len(logits), dtype=torch.int32)
        self._launch.sample(
            logits.data_ptr(), params.temperature.data_ptr(), params.top_k.data_ptr(), params.top_p.data_ptr(),
            params.uniform.data_ptr(), params.slots.data_ptr(), tokens.data_ptr(), out.data_ptr(),
            *logits.shape, len(tokens),
        )  # fmt: skip
        return out

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        out = self._buffer("normed", *x.shape)
        self._launch.rms_norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), *x.shape)
        return out

    def _write(self, kv: Tensor, first: int, rows: Rows, cache: KVCache, layer: int) -> None:
        keys, values = cache.layer(layer)
        self._launch.write(
            kv.data_ptr(), rows.rotary.data_ptr(), rows.positions.data_ptr(), rows.slots.data_ptr(),
            keys.data_ptr(), values.data_ptr(), *kv.shape, first, rows.rotary.shape[0], *keys.shape,
        )  # fmt: skip

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        """x · weightᵀ: (rows, dim) → (rows, out)."""
        if self.tile is None:
            return product(x, weight)
        return in_tiles(lambda x: product(x, weight), self.tile, x)

    def _buffer(self, name: str, rows: int, width: int) -> Tensor:
        """(rows, width), from memory that the next step uses again; behind it is room for padded_rows."""
        size = padded_rows(rows) * width
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = torch.zeros(size + size // 2)
        return self._buffers[name][: rows * width].view(rows, width)
