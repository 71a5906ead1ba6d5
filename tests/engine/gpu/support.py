"""Rows, weights and a cache for tests of TritonOperations, on any device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.attention.batch import Rows
from engine.attention.kv_cache import KVCache, KVShape
from engine.attention.metadata import AttentionMeta, tiles_of
from engine.ops.guidance import Guidance
from engine.ops.operations import LayerWeights, Operations
from engine.ops.sampling import SamplingTensors

HEADS, HEAD_DIM, HIDDEN, VOCAB, PAGE, PAGES = 2, 24, 40, 37, 4, 12
DIM = HEADS * HEAD_DIM


class Step(NamedTuple):
    """Three branches of 3, 0 and 5 rows, whose keys and values come after those of 5, 0 and 9 earlier rows."""

    rows: Rows
    cache: KVCache
    tokens: Tensor
    table: Tensor
    layer: LayerWeights
    head: Tensor
    guidance: Guidance
    sampling: SamplingTensors


def step(device: str, dtype: torch.dtype) -> Step:
    generator = torch.Generator().manual_seed(3)

    def normal(*size: int, of: torch.dtype = dtype) -> Tensor:
        return (torch.randn(*size, generator=generator) * size[-1] ** -0.5).to(device, of)

    def int32(*values: int) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    starts, tables = np.array([0, 3, 3, 8], dtype=np.int32), [[7, 2, 0, 0], [0, 0, 0, 0], [5, 1, 9, 3]]
    after = [(0, 5), (0, 6), (0, 7), *((2, n) for n in range(9, 14))]
    cache = KVCache(KVShape(1, HEADS, HEAD_DIM), PAGES, PAGE, device=torch.device(device), dtype=dtype)
    cache.keys.copy_(normal(*cache.keys.shape))
    cache.values.copy_(normal(*cache.values.shape))
    meta = AttentionMeta(
        starts=torch.from_numpy(starts).to(device),
        visible=int32(6, 7, 8, 14, 14, 14, 14, 14),
        block_tables=torch.tensor(tables, dtype=torch.int32, device=device),
        page_size=PAGE,
        tiles=torch.from_numpy(tiles_of(starts)).to(device),
    )
    return Step(
        rows=Rows(
            sources=int32(3, -2, -3, 0, 8, 9, -4, 1),
            rotary=normal(20, HEAD_DIM // 2, 2, of=torch.float32),
            positions=int32(*range(3, 11)),
            slots=int32(*(tables[branch][n // PAGE] * PAGE + n % PAGE for branch, n in after)),
            attention=meta,
        ),
        cache=cache,
        tokens=int32(4, 6, 2, 0, 0),
        table=normal(10, DIM),
        layer=LayerWeights(
            normal(DIM), normal(3 * DIM, DIM), normal(DIM, DIM), normal(DIM), normal(2 * HIDDEN, DIM),
            normal(DIM, HIDDEN),
        ),
        head=normal(VOCAB, DIM),
        guidance=Guidance(int32(0, 1, 7), int32(3, 4, 7), torch.tensor([1.0, 3.0, 5.0], device=device)),
        sampling=SamplingTensors(
            temperature=torch.tensor([1.0, 0.0, 0.7], device=device),
            top_k=int32(0, 0, 5),
            top_p=torch.tensor([1.0, 1.0, 0.9011], device=device),
            uniform=torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64, device=device),
            slots=int32(3, -1, 4),
            greedy=False,
            filtered=True,
        ),
    )  # fmt: skip


def run(operations: Operations, made: Step) -> list[Tensor]:
    """A self layer, a cross layer whose rows are all alike, and a draw."""
    rows, cache, layer = made.rows, made.cache, made.layer
    x = operations.embed(rows, made.tokens, made.table)
    qkv = operations.norm_linear(x, layer.norm, layer.projection)
    x = operations.finish_layer(x, operations.self_attention(qkv, rows, cache, 0), layer)
    q = qkv[:1, :DIM].expand(len(rows), -1)
    x = x + operations.finish_layer(made.table[:1].expand(8, -1), operations.cross_attention(q, rows, cache, 0), layer)
    logits = operations.logits(x, layer.norm, made.head, made.guidance)
    drawn = operations.sample(logits.clone(), made.sampling, made.tokens)
    return [x, logits, drawn, made.tokens, cache.keys, cache.values, made.table]
