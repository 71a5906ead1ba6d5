"""The operations of a step, which every family is made of: those of its forward pass, and the draw of its tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.attention.batch import Rows
from engine.attention.kv_cache import KVCache
from engine.ops.guidance import Guidance
from engine.ops.sampling import SamplingTensors


class LayerWeights(NamedTuple):
    """A pre-norm layer's weights, as its matrices (out, in) are multiplied: `projection` makes queries, keys and values
    at once, or the queries alone; `gate_up` holds w1 and then w3 of the SwiGLU."""

    norm: Tensor
    projection: Tensor
    output: Tensor
    feed_forward_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Operations(Protocol):
    """All work row by row. A result is valid until the next call of the same operation. Rows that are all alike may be
    one row, expanded."""

    def matrix(self, weight: Tensor) -> Tensor:
        """A matrix (out, in) as the other operations multiply it fastest; they also take the matrix itself."""
        ...

    def embed(self, rows: Rows, tokens: Tensor, table: Tensor) -> Tensor:
        """What the rows carry, (rows, dim). tokens: KVCache.tokens. table (ids, dim)."""
        ...

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
        """RMS norm, then a matrix: (rows, dim) → (rows, out)."""
        ...

    def write(self, kv: Tensor, rows: Rows, cache: KVCache, layer: int) -> None:
        """Rotates the keys and writes keys and values to the cache. kv (rows, 2 · dim): keys, then values."""
        ...

    def self_attention(self, qkv: Tensor, rows: Rows, cache: KVCache, layer: int) -> Tensor:
        """Writes keys and values of the rows to the cache, then attends. (rows, 3 · dim) → (rows, dim)."""
        ...

    def cross_attention(self, q: Tensor, rows: Rows, cache: KVCache, layer: int) -> Tensor:
        """Attends to what is in the cache. (rows, dim) → (rows, dim)."""
        ...

    def finish_layer(self, x: Tensor, attended: Tensor, weights: LayerWeights) -> Tensor:
        """What follows attention: x + output(attended), then the feed-forward with its norm. x may
        be overwritten if it is the last result."""
        ...

    def logits(self, x: Tensor, norm: Tensor, weight: Tensor, guidance: Guidance) -> Tensor:
        """Guided logits float32 (n, vocab): RMS norm of x (rows, dim), guidance, then the matrix. The matrix is linear,
        so it multiplies one guided row in place of the rows of both branches."""
        ...

    def sample(self, logits: Tensor, params: SamplingTensors, tokens: Tensor) -> Tensor:
        """Draws a token for each row of the logits: int32 (n,), and writes it to tokens (slots,) at params.slots.
        NO_TOKEN where the logits are not finite. The logits may be overwritten."""
        ...


def in_tiles(function: Callable[..., Tensor], tile: int, *rows: Tensor) -> Tensor:
    """Calls a row-by-row function on padded tiles of rows. A matrix product rounds differently at another number of
    rows; so a row's bits don't depend on how many others there are."""
    n = rows[0].shape[0]
    padded = [F.pad(r, (0, 0) * (r.dim() - 1) + (0, -n % tile)).split(tile) for r in rows]
    return torch.cat([function(*tiles) for tiles in zip(*padded, strict=True)] or [function(*rows)])[:n]
