"""ARPG over rectangular batches, computed as the published code computes it.

It has the same modules, also those that do nothing when it draws, separate projections, and keys and values that are
joined step by step. So it takes the time of the published code. It shares no code with the engine's networks: a faster
engine does not make the baseline faster.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.arpg import ARPGConfig
from engine.models.layers import feed_forward_size

EPS = 1e-5
DROPOUT = 0.1
"""Without effect when the network draws, but the published code calls it."""


class StaticNetwork(nn.Module):
    """Module names are those of the public checkpoints."""

    def __init__(self, config: ARPGConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size + config.num_classes + 3, config.dim)
        self.embed_drop = nn.Dropout(DROPOUT)
        self.layers = DecoderDecoder(config)
        self.norm = RMSNorm(config.dim)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)

    @classmethod
    def load(cls, state: Mapping[str, Tensor], config: ARPGConfig) -> StaticNetwork:
        """state: the weights of a checkpoint by name; buffers of the training are ignored."""
        with torch.device("meta"):
            network = cls(config)
        network.load_state_dict({name: state[name] for name in network.state_dict()}, assign=True)
        return network.eval()

    def forward(self, tokens: Tensor, rotary: Tensor) -> Tensor:
        """Append the rows of tokens (batch, rows) to the cache. Returns logits (batch, targets, vocab), float32, of
        [MASK] queries at the targets. rotary (batch, rows + targets, head_dim / 2, 2): first that of the rows."""
        x = self.embed_drop(self.embeddings(tokens))
        targets = rotary.shape[1] - tokens.shape[1]
        masks = torch.full((len(tokens), targets), self.config.mask_id, device=tokens.device)
        x = self.layers(x, self.embeddings(masks), rotary)
        return self.head(self.norm(x)).float()

    def clear(self) -> None:
        """Drop all keys and values."""
        for module in self.modules():
            if isinstance(module, JoinedCache):
                module.keys = module.values = None


class JoinedCache(nn.Module):
    """Keys and values of one layer, copied to a longer tensor at each step."""

    keys: Tensor | None = None
    values: Tensor | None = None

    def join(self, keys: Tensor, values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Append keys and values along dim; returns all of them."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=dim)
            values = torch.cat([self.values, values], dim=dim)
        self.keys, self.values = keys, values
        return keys, values


class DecoderDecoder(JoinedCache):
    def __init__(self, config: ARPGConfig) -> None:
        super().__init__()
        half = config.n_layer // 2
        self.heads = config.n_head
        self.self_dec = nn.ModuleList(Layer(config, SelfAttention(config)) for _ in range(half))
        self.cross_dec = nn.ModuleList(Layer(config, CrossAttention(config)) for _ in range(config.n_layer - half))
        self.norm = RMSNorm(config.dim)
        self.to_k = nn.Linear(config.dim, config.dim, bias=False)
        self.to_v = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, queries: Tensor, rotary: Tensor) -> Tensor:
        rows = x.shape[1]
        for layer in self.self_dec:
            x = layer(x, rotary[:, :rows])
        normed = self.norm(x)
        keys = rotate(split(self.to_k(normed), self.heads), rotary[:, :rows])
        keys, values = self.join(keys, split(self.to_v(normed), self.heads), dim=1)
        for layer in self.cross_dec:
            queries = layer(queries, rotary[:, rows:], keys, values)
        return queries


class Layer(nn.Module):
    def __init__(self, config: ARPGConfig, attention: nn.Module) -> None:
        super().__init__()
        self.attn = attention
        self.ffn = FeedForward(config)
        self.attn_norm = RMSNorm(config.dim)
        self.ffn_norm = RMSNorm(config.dim)

    def forward(self, x: Tensor, rotary: Tensor, *shared: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x), rotary, *shared)
        return x + self.ffn(self.ffn_norm(x))


class CrossAttention(JoinedCache):
    """Its keys and values are the shared ones, which DecoderDecoder keeps."""

    def __init__(self, config: ARPGConfig) -> None:
        super().__init__()
        self.heads = config.n_head
        self.to_q = nn.Linear(config.dim, config.dim, bias=False)
        self.proj = nn.Linear(config.dim, config.dim, bias=False)
        self.proj_drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, rotary: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q = rotate(split(self.to_q(x), self.heads), rotary)
        return self.attend(q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        attended = F.scaled_dot_product_attention(q, keys, values)
        return self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))


class SelfAttention(CrossAttention):
    def __init__(self, config: ARPGConfig) -> None:
        super().__init__(config)
        self.to_k = nn.Linear(config.dim, config.dim, bias=False)
        self.to_v = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:  # type: ignore[override]
        q, k, v = (split(to(x), self.heads) for to in (self.to_q, self.to_k, self.to_v))
        q, k, v = (t.transpose(1, 2) for t in (rotate(q, rotary), rotate(k, rotary), v))
        return self.attend(q, *self.join(k, v, dim=2))


class FeedForward(nn.Module):
    def __init__(self, config: ARPGConfig) -> None:
        super().__init__()
        hidden = feed_forward_size(config.dim, config.multiple_of)
        self.w1 = nn.Linear(config.dim, hidden, bias=False)
        self.w3 = nn.Linear(config.dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, config.dim, bias=False)
        self.ffn_drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn_drop(self.w2(F.silu(self.w1(x)) * self.w3(x)))


class RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(torch.mean(wide * wide, dim=-1, keepdim=True) + EPS)).type_as(x) * self.weight


def split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1))


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """x (batch, rows, heads, head_dim) by rotary (batch, rows, head_dim / 2, 2)."""
    pairs = x.float().unflatten(-1, (-1, 2))
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = rotary[:, :, None, :, 0], rotary[:, :, None, :, 1]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(3).type_as(x)
