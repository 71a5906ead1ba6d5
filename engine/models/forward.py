"""Forward passes for inference. The networks (`arpg`, `llamagen`) hold the weights and are trained; these run a step of
the engine through them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.attention.batch import Batch, Rows
from engine.attention.kv_cache import KVCache
from engine.models.arpg import ARPG
from engine.models.arpg import Layer as ARPGLayer
from engine.models.layers import merge
from engine.models.llamagen import Layer as LlamaGenLayer
from engine.models.llamagen import LlamaGen
from engine.models.network import Model
from engine.ops.operations import LayerWeights, Operations


class ForwardPass(ABC):
    """A network, ready for the engine: matrices that read the same rows are merged."""

    @abstractmethod
    def __call__(self, batch: Batch, cache: KVCache) -> Tensor:
        """Write the batch's cached rows to the cache. Returns logits float32 (n, vocab): of the cached rows at
        batch.logits_indices, then of batch.queries."""


def forward_pass(network: Model, operations: Operations) -> ForwardPass:
    if isinstance(network, ARPG):
        return ARPGForward(network, operations)
    if isinstance(network, LlamaGen):
        return LlamaGenForward(network, operations)
    raise TypeError(f"{type(network).__name__} has no forward pass")


class ARPGForward(ForwardPass):
    """Content rows go through the self-decoder and write the shared keys and values; the [MASK] queries then attend to
    these in every cross layer. All queries start as the same vector, so the first cross layer projects it once."""

    def __init__(self, network: ARPG, operations: Operations) -> None:
        layers = network.layers
        self.network = network
        self._operations = operations
        self._content = [
            _arpg_layer(layer, merge(layer.attn.to_q, layer.attn.to_k, layer.attn.to_v)) for layer in layers.self_dec
        ]
        self._shared = merge(layers.to_k, layers.to_v)
        self._cross = [_arpg_layer(layer, layer.attn.to_q.weight) for layer in layers.cross_dec]
        self._mask = network.embeddings.weight[network.config.mask_id]
        first = self._cross[0]
        self._mask_query = operations.norm_linear(self._mask[None], first.norm, first.projection)[0].clone()

    def __call__(self, batch: Batch, cache: KVCache) -> Tensor:
        network, operations, queries = self.network, self._operations, batch.queries
        if len(batch.cached):
            x = network.embeddings.weight[batch.cached.tokens]
            x = _through(self._content, x, batch.cached, cache, operations)
            shared = operations.norm_linear(x, network.layers.norm.weight, self._shared)
            operations.write(shared, batch.cached, cache, len(self._content))
        if not len(queries):
            return torch.empty(0, network.vocab_size, device=cache.keys.device)
        x = self._mask.repeat(len(queries), 1)
        q = self._mask_query.repeat(len(queries), 1)
        for index, layer in enumerate(self._cross):
            if index > 0:
                q = operations.norm_linear(x, layer.norm, layer.projection)
            attended = operations.cross_attention(q, queries, cache, len(self._content))
            x = operations.finish_layer(x, attended, layer)
        return operations.norm_linear(x, network.norm.weight, network.head.weight).float()


class LlamaGenForward(ForwardPass):
    """All rows are cached. PAR is a LlamaGen with more embeddings."""

    def __init__(self, network: LlamaGen, operations: Operations) -> None:
        self.network = network
        self._operations = operations
        self._layers = [_llamagen_layer(layer) for layer in network.layers]

    def __call__(self, batch: Batch, cache: KVCache) -> Tensor:
        network, operations = self.network, self._operations
        x = _through(self._layers, network.embed(batch.cached.tokens), batch.cached, cache, operations)
        x = x[batch.logits_indices]
        return operations.norm_linear(x, network.norm.weight, network.output.weight).float()


def _through(layers: Sequence[LayerWeights], x: Tensor, rows: Rows, cache: KVCache, operations: Operations) -> Tensor:
    """Rows that are cached, through layers that keep keys and values of their own."""
    for index, layer in enumerate(layers):
        qkv = operations.norm_linear(x, layer.norm, layer.projection)
        x = operations.finish_layer(x, operations.self_attention(qkv, rows, cache, index), layer)
    return x


def _arpg_layer(layer: ARPGLayer, projection: Tensor) -> LayerWeights:
    return LayerWeights(
        norm=layer.attn_norm.weight,
        projection=projection,
        output=layer.attn.proj.weight,
        feed_forward_norm=layer.ffn_norm.weight,
        gate_up=merge(layer.ffn.w1, layer.ffn.w3),
        down=layer.ffn.w2.weight,
    )


def _llamagen_layer(layer: LlamaGenLayer) -> LayerWeights:
    feed_forward = layer.feed_forward
    return LayerWeights(
        norm=layer.attention_norm.weight,
        projection=layer.attention.wqkv.weight,
        output=layer.attention.wo.weight,
        feed_forward_norm=layer.ffn_norm.weight,
        gate_up=merge(feed_forward.w1, feed_forward.w3),
        down=feed_forward.w2.weight,
    )
