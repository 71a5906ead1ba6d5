"""ARPG: the decoder-decoder that draws tokens in any order (arXiv 2503.10568).

Content rows pass the self-decoder, where each layer has its own keys and values. The result is normed and projected
once to one set of keys and values that all cross layers share. [MASK] queries at the target positions cross-attend to
it in the second half. Module names are those of the public checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.attention.kv_cache import KVShape
from engine.models.captions import CaptionEmbedding
from engine.models.layers import FeedForward, RMSNorm, feed_forward_size, rotary_table
from engine.models.network import Model
from engine.ops.functions import rotate
from engine.request import RopeScaling, TextSizes


@dataclass(frozen=True, slots=True, kw_only=True)
class ARPGConfig:
    """Sizes of an ARPG. n_layer counts both halves; the defaults are the published vocabulary."""

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
    def mask_id(self) -> int:
        return self.vocab_size

    @property
    def null_id(self) -> int:
        return self.class_id(self.num_classes)

    def class_id(self, label: int) -> int:
        return self.vocab_size + 1 + label


ARPG_SIZES = {
    "L": ARPGConfig(dim=1024, n_layer=24, n_head=16),
    "XL": ARPGConfig(dim=1280, n_layer=36, n_head=20),
    "XXL": ARPGConfig(dim=1536, n_layer=48, n_head=24),
}


class CrossAttention(nn.Module):
    """Projects queries only; its keys and values are those of DecoderDecoder.shared."""

    def __init__(self, config: ARPGConfig) -> None:
        super().__init__()
        self.heads = config.n_head
        self.to_q = nn.Linear(config.dim, config.dim, bias=False)
        self.proj = nn.Linear(config.dim, config.dim, bias=False)

    def q(self, x: Tensor, rotary: Tensor) -> Tensor:
        return rotate(self.to_q(x).unflatten(-1, (self.heads, -1)), rotary)


class SelfAttention(CrossAttention):
    def __init__(self, config: ARPGConfig) -> None:
        super().__init__(config)
        self.to_k = nn.Linear(config.dim, config.dim, bias=False)
        self.to_v = nn.Linear(config.dim, config.dim, bias=False)

    def qkv(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v = (to(x).unflatten(-1, (self.heads, -1)) for to in (self.to_k, self.to_v))
        return self.q(x, rotary), rotate(k, rotary), v


class Layer(nn.Module):
    """Pre-norm layer in two parts, before and after attention; both work row by row."""

    attn: CrossAttention

    def __init__(self, config: ARPGConfig, attn: CrossAttention) -> None:
        super().__init__()
        self.attn = attn
        self.ffn = FeedForward(config.dim, feed_forward_size(config.dim, config.multiple_of))
        self.attn_norm = RMSNorm(config.dim)
        self.ffn_norm = RMSNorm(config.dim)

    def after(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attn.proj(attended.flatten(-2))
        return x + self.ffn(self.ffn_norm(x))


class SelfLayer(Layer):
    attn: SelfAttention

    def __init__(self, config: ARPGConfig) -> None:
        super().__init__(config, SelfAttention(config))

    def qkv(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.attn.qkv(self.attn_norm(x), rotary)


class CrossLayer(Layer):
    def __init__(self, config: ARPGConfig) -> None:
        super().__init__(config, CrossAttention(config))

    def q(self, x: Tensor, rotary: Tensor) -> Tensor:
        return self.attn.q(self.attn_norm(x), rotary)


class DecoderDecoder(nn.Module):
    def __init__(self, config: ARPGConfig) -> None:
        super().__init__()
        half = config.n_layer // 2
        self.heads = config.n_head
        cross = config.n_layer - half
        self.self_dec: Sequence[SelfLayer] = nn.ModuleList(SelfLayer(config) for _ in range(half))  # type: ignore[assignment]
        self.cross_dec: Sequence[CrossLayer] = nn.ModuleList(CrossLayer(config) for _ in range(cross))  # type: ignore[assignment]
        self.norm = RMSNorm(config.dim)
        self.to_k = nn.Linear(config.dim, config.dim, bias=False)
        self.to_v = nn.Linear(config.dim, config.dim, bias=False)

    def shared(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor]:
        """The set of keys and values that every cross layer reads."""
        x = self.norm(x)
        k, v = (to(x).unflatten(-1, (self.heads, -1)) for to in (self.to_k, self.to_v))
        return rotate(k, rotary), v


class ARPG(Model):
    def __init__(self, config: ARPGConfig) -> None:
        super().__init__()
        self.config = config
        # Image tokens, [MASK], classes, the null class, and one unused id of the published checkpoints.
        self.embeddings = nn.Embedding(config.vocab_size + config.num_classes + 3, config.dim)
        self.layers = DecoderDecoder(config)
        self.norm = RMSNorm(config.dim)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def kv_shape(self) -> KVShape:
        """A cache for each self layer, and the shared one."""
        return KVShape(len(self.layers.self_dec) + 1, self.config.n_head, self.config.head_dim)

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    def rotary(
        self, grid: tuple[int, int], trained: tuple[int, int] | None = None, rope_scaling: RopeScaling = "extrapolate"
    ) -> Tensor:
        return rotary_table(grid, self.config.head_dim, trained=trained, rope_scaling=rope_scaling)

    def _logits(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x)).float()

    def teacher_forced(self, ids: Tensor, classes: Tensor, orders: Tensor, grid: tuple[int, int]) -> Tensor:
        """The logits of training, in one causal pass (paper §3.2): (B, L, vocab_size).

        ids (B, L): row-major tokens. classes (B,): labels, num_classes for the null class. orders (B, L): for each
        sample a permutation of the grid positions. logits[:, i] predicts ids at orders[:, i].
        """
        condition = self.embeddings(self.config.class_id(0) + classes[:, None])
        return self._teacher_forced(ids, condition, orders, grid)

    def _teacher_forced(self, ids: Tensor, condition: Tensor, orders: Tensor, grid: tuple[int, int]) -> Tensor:
        """condition (B, n, dim): the rows in front of the tokens."""
        rows = condition.shape[1]
        table = self.rotary(grid).to(ids.device)
        content_rotary = table[F.pad(orders[:, :-1] + 1, (rows, 0))]
        query_rotary = table[orders + 1]

        x = torch.cat([condition, self.embeddings(ids.gather(1, orders)[:, :-1])], dim=1)
        for self_layer in self.layers.self_dec:
            x = self_layer.after(x, _causal(*self_layer.qkv(x, content_rotary)))
        k, v = self.layers.shared(x, content_rotary)
        x = self.embeddings(torch.full_like(ids, self.config.mask_id))
        for layer in self.layers.cross_dec:
            x = layer.after(x, _causal(layer.q(x, query_rotary), k, v))
        return self._logits(x)


class TextARPG(ARPG):
    """ARPG with a text in place of the class, as LlamaGen takes it: a text's features, through two matrices, are the
    first rows. It has no classes; behind the image tokens and [MASK] the embedding ids are those of TextRows.

    The rows of a text are at no position. Where the published ARPG gives its one condition row zero queries and keys,
    these rows keep theirs: otherwise every token would attend to all words alike.
    """

    def __init__(self, config: ARPGConfig, text: TextSizes) -> None:
        super().__init__(config)
        self.text = text
        self.cls_embedding = CaptionEmbedding(text, config.dim)
        self.embeddings = nn.Embedding(config.mask_id + 1, config.dim)

    def rotary(
        self, grid: tuple[int, int], trained: tuple[int, int] | None = None, rope_scaling: RopeScaling = "extrapolate"
    ) -> Tensor:
        table = super().rotary(grid, trained, rope_scaling)
        table[0, :, 0] = 1  # cos; sin stays 0
        return table

    def teacher_forced(self, ids: Tensor, features: Tensor, orders: Tensor, grid: tuple[int, int]) -> Tensor:
        """As for ARPG, with a text's features (B, n, width) in place of the class."""
        return self._teacher_forced(ids, self.cls_embedding(features), orders, grid)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over (B, rows, heads, head_dim), in which the last query sees all keys, and each one before it one key
    fewer."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2)
