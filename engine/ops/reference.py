"""The operations in torch: for GPUs, for half precision, and where no functions can be compiled. The compiled ones are
tested against them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.attention.batch import Rows
from engine.attention.kv_cache import KVCache
from engine.attention.paged import paged_attention
from engine.ops.functions import rms_norm, rotate
from engine.ops.guidance import Guidance, guide
from engine.ops.operations import LayerWeights, in_tiles
from engine.ops.packed_matrix import pack_matrix, product
from engine.ops.sampling import SamplingTensors, sample


class TorchOperations:
    """tile: every operation but attention is computed in tiles of so many rows: see in_tiles."""

    def __init__(self, tile: int | None = None) -> None:
        self.tile = tile

    def matrix(self, weight: Tensor) -> Tensor:
        return pack_matrix(weight)

    def embed(self, rows: Rows, tokens: Tensor, table: Tensor) -> Tensor:
        # A row without finite logits has left NO_TOKEN; any embedding will do.
        drawn = tokens[(-2 - rows.sources).clamp(min=0)].clamp(min=0)
        return F.embedding(torch.where(rows.sources < 0, drawn, rows.sources), table)

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
        return self._map(lambda x: product(rms_norm(x, norm), weight), x)

    def write(self, kv: Tensor, rows: Rows, cache: KVCache, layer: int) -> None:
        keys, values = kv.unflatten(-1, (2, cache.heads, -1)).unbind(1)
        cache.write(layer, rows.slots, self._rotate(keys, rows), values)

    def self_attention(self, qkv: Tensor, rows: Rows, cache: KVCache, layer: int) -> Tensor:
        dim = qkv.shape[-1] // 3
        self.write(qkv[:, dim:], rows, cache, layer)
        return self.cross_attention(qkv[:, :dim], rows, cache, layer)

    def cross_attention(self, q: Tensor, rows: Rows, cache: KVCache, layer: int) -> Tensor:
        q = self._rotate(q.unflatten(-1, (cache.heads, -1)), rows)
        return paged_attention(q, *cache.layer(layer), rows.attention).flatten(1)

    def finish_layer(self, x: Tensor, attended: Tensor, weights: LayerWeights) -> Tensor:
        def finish(x: Tensor, attended: Tensor) -> Tensor:
            x = x + product(attended, weights.output)
            gate, up = product(rms_norm(x, weights.feed_forward_norm), weights.gate_up).chunk(2, dim=-1)
            return x + product(F.silu(gate) * up, weights.down)

        return self._map(finish, x, attended)

    def logits(self, x: Tensor, norm: Tensor, weight: Tensor, guidance: Guidance) -> Tensor:
        guided = guide(rms_norm(x, norm), guidance).type_as(x)
        return self._map(lambda guided: product(guided, weight), guided).float()

    def sample(self, logits: Tensor, params: SamplingTensors, tokens: Tensor) -> Tensor:
        drawn = sample(logits, params).int()
        kept = params.slots >= 0
        tokens[params.slots[kept].long()] = drawn[kept]
        return drawn

    def _rotate(self, x: Tensor, rows: Rows) -> Tensor:
        return self._map(rotate, x, rows.rotary[rows.positions])

    def _map(self, function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        return function(*rows) if self.tile is None else in_tiles(function, self.tile, *rows)
