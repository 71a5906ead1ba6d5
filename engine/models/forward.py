"""Forward passes for inference. The networks (`arpg`, `llamagen`) hold the weights and are trained; these run a step of
the engine through them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from engine.attention.batch import Rows
from engine.attention.kv_cache import KVCache
from engine.models.arpg import ARPG, TextARPG
from engine.models.arpg import Layer as ARPGLayer
from engine.models.captions import TextRows
from engine.models.layers import join_embeddings, merge
from engine.models.llamagen import Layer as LlamaGenLayer
from engine.models.llamagen import LlamaGen, TextLlamaGen
from engine.models.network import Model
from engine.ops.operations import LayerWeights, Operations


class ForwardPass(ABC):
    """A network, ready for the engine: matrices that read the same rows are merged.

    embeddings (ids, dim): the table of all embedding ids. norm (dim,), head (vocab, dim): what makes logits of the last
    hidden rows. draws_from_queries: tokens are drawn from the queries; otherwise from the cached rows. texts: the texts
    in the table; None: the model takes none.
    """

    network: Model
    embeddings: Tensor
    norm: Tensor
    head: Tensor
    draws_from_queries: bool
    texts: TextRows | None = None

    @abstractmethod
    def cached(self, rows: Rows, cache: KVCache) -> Tensor:
        """Write keys and values of the rows to the cache. Returns their last hidden rows (rows, dim)."""

    @abstractmethod
    def queries(self, rows: Rows, cache: KVCache) -> Tensor:
        """The last hidden rows (rows, dim) of rows that are not cached."""


def forward_pass(network: Model, operations: Operations, *, texts: int = 2) -> ForwardPass:
    """texts: how many texts find a place at once, of models that take texts."""
    if isinstance(network, TextARPG):
        return TextARPGForward(network, operations, texts)
    if isinstance(network, ARPG):
        return ARPGForward(network, operations)
    if isinstance(network, TextLlamaGen):
        return TextLlamaGenForward(network, operations, texts)
    if isinstance(network, LlamaGen):
        return LlamaGenForward(network, operations)
    raise TypeError(f"{type(network).__name__} has no forward pass")


class ARPGForward(ForwardPass):
    """Content rows go through the self-decoder and write the shared keys and values; the [MASK] queries then attend to
    these in every cross layer. All queries start as the same vector, so the first cross layer projects it once."""

    draws_from_queries = True

    def __init__(self, network: ARPG, operations: Operations, embeddings: Tensor | None = None) -> None:
        layers = network.layers
        self._shared_norm = layers.norm.weight
        self.network = network
        self.embeddings = network.embeddings.weight if embeddings is None else embeddings
        self.norm, self.head = network.norm.weight, operations.matrix(network.head.weight)
        self._operations = operations
        self._content = [
            _arpg_layer(layer, merge(layer.attn.to_q, layer.attn.to_k, layer.attn.to_v), operations)
            for layer in layers.self_dec
        ]
        self._shared = operations.matrix(merge(layers.to_k, layers.to_v))
        self._cross = [_arpg_layer(layer, layer.attn.to_q.weight, operations) for layer in layers.cross_dec]
        self._mask = self.embeddings[network.config.mask_id]
        first = self._cross[0]
        self._mask_query = operations.norm_linear(self._mask[None], first.norm, first.projection)[0].clone()

    def cached(self, rows: Rows, cache: KVCache) -> Tensor:
        operations = self._operations
        x = _through(self._content, operations.embed(rows, cache.tokens, self.embeddings), rows, cache, operations)
        shared = operations.norm_linear(x, self._shared_norm, self._shared)
        operations.write(shared, rows, cache, len(self._content))
        return x

    def queries(self, rows: Rows, cache: KVCache) -> Tensor:
        operations = self._operations
        x, q = self._mask.expand(len(rows), -1), self._mask_query.expand(len(rows), -1)
        for index, layer in enumerate(self._cross):
            if index > 0:
                q = operations.norm_linear(x, layer.norm, layer.projection)
            x = operations.finish_layer(x, operations.cross_attention(q, rows, cache, len(self._content)), layer)
        return x


class TextARPGForward(ARPGForward):
    """Differs in the embeddings alone."""

    def __init__(self, network: TextARPG, operations: Operations, texts: int) -> None:
        self.texts = TextRows(network.embeddings, network.cls_embedding, texts)
        super().__init__(network, operations, self.texts.table)


class LlamaGenForward(ForwardPass):
    """All rows are cached. PAR is a LlamaGen with more embeddings."""

    draws_from_queries = False

    def __init__(self, network: LlamaGen, operations: Operations, embeddings: Tensor | None = None) -> None:
        self.network = network
        self.embeddings = join_embeddings(network.embedding_tables) if embeddings is None else embeddings
        self.norm, self.head = network.norm.weight, operations.matrix(network.output.weight)
        self._operations = operations
        self._layers = [_llamagen_layer(layer, operations) for layer in network.layers]

    def cached(self, rows: Rows, cache: KVCache) -> Tensor:
        x = self._operations.embed(rows, cache.tokens, self.embeddings)
        return _through(self._layers, x, rows, cache, self._operations)

    def queries(self, rows: Rows, cache: KVCache) -> Tensor:
        raise TypeError("all rows of this family are cached")


class TextLlamaGenForward(LlamaGenForward):
    """Differs in the embeddings alone."""

    def __init__(self, network: TextLlamaGen, operations: Operations, texts: int) -> None:
        self.texts = TextRows(network.tok_embeddings, network.cls_embedding, texts)
        super().__init__(network, operations, self.texts.table)


def _through(layers: Sequence[LayerWeights], x: Tensor, rows: Rows, cache: KVCache, operations: Operations) -> Tensor:
    """Rows that are cached, through layers that keep keys and values of their own."""
    for index, layer in enumerate(layers):
        qkv = operations.norm_linear(x, layer.norm, layer.projection)
        x = operations.finish_layer(x, operations.self_attention(qkv, rows, cache, index), layer)
    return x


def _arpg_layer(layer: ARPGLayer, projection: Tensor, operations: Operations) -> LayerWeights:
    return LayerWeights(
        norm=layer.attn_norm.weight,
        projection=operations.matrix(projection),
        output=operations.matrix(layer.attn.proj.weight),
        feed_forward_norm=layer.ffn_norm.weight,
        gate_up=operations.matrix(merge(layer.ffn.w1, layer.ffn.w3)),
        down=operations.matrix(layer.ffn.w2.weight),
    )


def _llamagen_layer(layer: LlamaGenLayer, operations: Operations) -> LayerWeights:
    feed_forward = layer.feed_forward
    return LayerWeights(
        norm=layer.attention_norm.weight,
        projection=operations.matrix(layer.attention.wqkv.weight),
        output=operations.matrix(layer.attention.wo.weight),
        feed_forward_norm=layer.ffn_norm.weight,
        gate_up=operations.matrix(merge(feed_forward.w1, feed_forward.w3)),
        down=operations.matrix(feed_forward.w2.weight),
    )
