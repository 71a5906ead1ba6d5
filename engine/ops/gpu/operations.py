"""The operations on a GPU: torch multiplies matrices, and one Triton kernel does what lies between two products."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.attention.batch import Rows
from engine.attention.kv_cache import KVCache
from engine.attention.metadata import ROWS_A_TILE
from engine.ops.gpu import attention, embedding, feed_forward, norms, rotary, sampling
from engine.ops.gpu.launching import Launch, launch
from engine.ops.guidance import Guidance
from engine.ops.operations import LayerWeights
from engine.ops.sampling import SamplingTensors


class TritonOperations:
    """launch: starts every kernel; another one may count them. Nothing here synchronises, and no shape depends on
    data, so that a step can be captured as a CUDA graph."""

    def __init__(self, launch: Launch = launch) -> None:
        self._launch = launch

    def matrix(self, weight: Tensor) -> Tensor:
        return weight

    def embed(self, rows: Rows, tokens: Tensor, table: Tensor) -> Tensor:
        return embedding.embed(self._launch, table, rows.sources, tokens)

    def norm_linear(self, x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
        return torch.mm(norms.rms_norm(self._launch, x, norm), weight.t())

    def write(self, kv: Tensor, rows: Rows, cache: KVCache, layer: int) -> None:
        rotary.write(self._launch, kv, rows.rotary, rows.positions, rows.slots, *cache.layer(layer))

    def self_attention(self, qkv: Tensor, rows: Rows, cache: KVCache, layer: int) -> Tensor:
        dim = qkv.shape[1] // 3
        self.write(qkv[:, dim:], rows, cache, layer)
        return self.cross_attention(qkv[:, :dim], rows, cache, layer)

    def cross_attention(self, q: Tensor, rows: Rows, cache: KVCache, layer: int) -> Tensor:
        meta = rows.attention
        if meta.tiles is None:
            raise ValueError("attention: the kernel needs tiles; pack the step for a GPU")
        return attention.paged_attention(
            self._launch, q, rows.rotary, rows.positions, *cache.layer(layer), tiles=meta.tiles,
            block_tables=meta.block_tables, visible=meta.visible, page_size=meta.page_size, rows_a_tile=ROWS_A_TILE,
        )  # fmt: skip

    def finish_layer(self, x: Tensor, attended: Tensor, weights: LayerWeights) -> Tensor:
        if x.stride(0) == 0 or len(x) == 1:  # the rows are one row, which may be a weight: do not overwrite it
            x = torch.addmm(x[0], attended, weights.output.t())
        else:
            x = x.addmm_(attended, weights.output.t())  # in place, because torch would copy x first
        gate_up = self.norm_linear(x, weights.feed_forward_norm, weights.gate_up)
        return x.addmm_(feed_forward.swiglu(self._launch, gate_up), weights.down.t())

    def logits(self, x: Tensor, norm: Tensor, weight: Tensor, guidance: Guidance) -> Tensor:
        guided = norms.guided_norm(self._launch, x, norm, guidance.conditional, guidance.unconditional, guidance.scale)
        if weight.dtype == torch.float32:
            return torch.mm(guided, weight.t())
        if weight.device.type == "cpu":  # has no such product; used by the interpreter's tests
            return torch.mm(guided.float(), weight.t().float())
        return torch.mm(guided, weight.t(), out_dtype=torch.float32)

    def sample(self, logits: Tensor, params: SamplingTensors, tokens: Tensor) -> Tensor:
        return sampling.sample(
            self._launch, logits, params.temperature, params.top_k, params.top_p, params.uniform, params.slots, tokens,
            greedy=params.greedy, filtered=params.filtered,
        )  # fmt: skip
