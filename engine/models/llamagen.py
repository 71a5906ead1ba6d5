"""LlamaGen: a decoder-only transformer over image tokens (arXiv 2406.06525).

Every row carries a token, and its logits decide another one, which the plan names. Module names are those of the public
checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.attention.kv_cache import KVShape
from engine.models.captions import CaptionEmbedding
from engine.models.layers import FeedForward, RMSNorm, feed_forward_size, rotary_table
from engine.models.network import Model
from engine.ops.functions import rotate
from engine.request import RopeScaling, TextSizes


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaGenConfig:
    """Sizes of a LlamaGen; the defaults are the published vocabulary. Embedding ids, in order: image tokens, classes,
    the null class, and the special tokens of families that have some."""

    dim: int
    n_layer: int
    n_head: int
    multiple_of: int = 256
    vocab_size: int = 16384
    num_classes: int = 1000

    def __post_init__(self) -> None:
        if self.dim % (4 * self.n_head):
            raise ValueError(f"dim {self.dim} is not a multiple of 4 · n_head {self.n_head}, as the 2-D rotary needs")

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_head

    @property
    def null_id(self) -> int:
        return self.class_id(self.num_classes)

    def class_id(self, label: int) -> int:
        return self.vocab_size + label

    def special_id(self, index: int) -> int:
        return self.null_id + 1 + index


LLAMAGEN_SIZES = {
    "B": LlamaGenConfig(dim=768, n_layer=12, n_head=12),
    "L": LlamaGenConfig(dim=1024, n_layer=24, n_head=16),
    "XL": LlamaGenConfig(dim=1280, n_layer=36, n_head=20),
    "XXL": LlamaGenConfig(dim=1536, n_layer=48, n_head=24),
    "XXXL": LlamaGenConfig(dim=2560, n_layer=48, n_head=40),
    "3B": LlamaGenConfig(dim=3200, n_layer=24, n_head=32),
}


class Attention(nn.Module):
    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.heads = config.n_head
        self.wqkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)

    def qkv(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.wqkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return rotate(q, rotary), rotate(k, rotary), v


class Layer(nn.Module):
    """Pre-norm layer in two parts, before and after attention; both work row by row."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config.dim, feed_forward_size(config.dim, config.multiple_of))
        self.attention_norm = RMSNorm(config.dim)
        self.ffn_norm = RMSNorm(config.dim)

    def qkv(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.attention.qkv(self.attention_norm(x), rotary)

    def after(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attention.wo(attended.flatten(-2))
        return x + self.feed_forward(self.ffn_norm(x))


class ClassEmbedding(nn.Module):
    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.num_classes + 1, config.dim)


class LlamaGen(Model):
    """cls_embedding: of classes, if it is not given."""

    def __init__(self, config: LlamaGenConfig, cls_embedding: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.cls_embedding = cls_embedding or ClassEmbedding(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers: Sequence[Layer] = nn.ModuleList(Layer(config) for _ in range(config.n_layer))  # type: ignore[assignment]
        self.norm = RMSNorm(config.dim)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def kv_shape(self) -> KVShape:
        return KVShape(self.config.n_layer, self.config.n_head, self.config.head_dim)

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def embedding_tables(self) -> list[nn.Embedding]:
        """In the order of the embedding ids."""
        classes = self.cls_embedding.get_submodule("embedding_table")
        assert isinstance(classes, nn.Embedding)
        return [self.tok_embeddings, classes]

    def rotary(
        self, grid: tuple[int, int], trained: tuple[int, int] | None = None, rope_scaling: RopeScaling = "extrapolate"
    ) -> Tensor:
        return rotary_table(grid, self.config.head_dim, trained=trained, rope_scaling=rope_scaling)

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings (N, dim) of ids (N,)."""
        first, *others = self.embedding_tables
        start = first.num_embeddings
        x = first(ids.clamp(max=start - 1))
        for table in others:
            x = torch.where((ids >= start)[:, None], table((ids - start).clamp(0, table.num_embeddings - 1)), x)
            start += table.num_embeddings
        return x


class TextLlamaGen(LlamaGen):
    """LlamaGen text-to-image: a text's features, through two matrices, in place of the class. It has no classes; behind
    the image tokens the embedding ids are those of TextRows."""

    cls_embedding: CaptionEmbedding

    def __init__(self, config: LlamaGenConfig, text: TextSizes) -> None:
        super().__init__(config, CaptionEmbedding(text, config.dim))
        self.text = text

    @property
    def embedding_tables(self) -> list[nn.Embedding]:
        return [self.tok_embeddings]
