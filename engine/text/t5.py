"""The encoder of T5 1.1 and Flan-T5 (Raffel et al. 2020, Shazeer 2020), its modules named as in the public checkpoints.

Attention is not scaled, positions enter only as a bias for each bucket of distances, the norms are RMS norms, and the
feed-forward layer is a gated GELU. There are no biases elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DECODER = ("decoder.", "lm_head.")
"""Prefixes of the keys that a checkpoint of the whole model has besides those of the encoder."""
TIED = "encoder.embed_tokens.weight"
"""Some files hold shared.weight under this key too."""
BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
SUPPORTED = {"model_type": "t5", "feed_forward_proj": "gated-gelu"}


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Config:
    """Sizes by their public names. d_kv: the width of a head; num_heads · d_kv need not be d_model."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> T5Config:
        """The sizes in a public config.json. Raises ValueError with the field that is missing, invalid or not
        supported."""
        for name, supported in SUPPORTED.items():
            if data.get(name) != supported:
                raise ValueError(f"{name}: must be {supported!r}, as in T5 1.1 and Flan-T5, got {data.get(name)!r}")
        if data.get("quantization_config") is not None:
            raise ValueError("quantization_config: quantised weights are not supported; use those in floating point")
        values = {field.name: data.get(field.name, field.default) for field in fields(cls)}
        for name, value in values.items():
            if value is MISSING:
                raise ValueError(f"{name}: missing")
            kinds = (int, float) if name == "layer_norm_epsilon" else (int,)
            if type(value) not in kinds or not value > 0:
                raise ValueError(f"{name}: must be a positive number, got {value!r}")
        config = cls(**values)
        count, farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
        if count % 4 or farthest <= count // 4:
            raise ValueError(
                f"relative_attention_num_buckets: must be a multiple of 4 below four times "
                f"relative_attention_max_distance ({farthest}), got {count}"
            )
        return config


class T5Norm(nn.Module):
    """RMS norm in float32, cast back, then scaled; no mean is subtracted."""

    def __init__(self, dim: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return normed.to(self.weight.dtype) * self.weight


class SelfAttention(nn.Module):
    def __init__(self, config: T5Config, *, has_bias: bool) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if has_bias:  # the first layer's table serves all layers
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.o(mixed.transpose(-3, -2).flatten(-2))


class GatedFeedForward(nn.Module):
    """wo(GELU(wi_0 x) · wi_1 x), with the GELU that tanh approximates."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class AttentionLayer(nn.Module):
    def __init__(self, config: T5Config, *, has_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(config, has_bias=has_bias)
        self.layer_norm = T5Norm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class FeedForwardLayer(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = GatedFeedForward(config)
        self.layer_norm = T5Norm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(nn.Module):
    def __init__(self, config: T5Config, *, has_bias: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([AttentionLayer(config, has_bias=has_bias), FeedForwardLayer(config)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        attention, feed_forward = self.layer
        return feed_forward(attention(x, bias))


class Stack(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.block = nn.ModuleList(Block(config, has_bias=layer == 0) for layer in range(config.num_layers))
        self.final_layer_norm = T5Norm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        for block in self.block:
            x = block(x, bias)
        return self.final_layer_norm(x)


class T5Encoder(nn.Module):
    """Token ids to features."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config)

    def forward(self, ids: Tensor, valid: Tensor | None = None) -> Tensor:
        """Features (batch, n, d_model) of ids (batch, n). valid: boolean (batch, n), False at padding, which no row
        sees; None: nothing is padding."""
        config = self.config
        distances = buckets(
            ids.shape[-1], config.relative_attention_num_buckets, config.relative_attention_max_distance
        )
        table = self.get_parameter(BIAS)
        bias = F.embedding(distances.to(ids.device), table).permute(2, 0, 1)[None]  # (1, heads, n, n)
        if valid is not None:
            bias = bias.masked_fill(~valid[:, None, None, :], -math.inf)
        return self.encoder(self.shared(ids), bias)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Random weights with the published deviations."""
        config = self.config
        inner = config.num_heads * config.d_kv
        widths = {"shared": 1, "q": config.d_model * config.d_kv, "o": inner, "wo": config.d_ff}
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1)
            else:
                width = widths.get(name.split(".")[-2], config.d_model)
                parameter.normal_(std=width**-0.5, generator=generator)


def buckets(n: int, count: int, farthest: int) -> Tensor:
    """int64 (n, n): the bucket of the distance from each query row to each key row. One half of the buckets is for
    keys behind the query. In each half the near distances have a bucket each; the others share buckets that widen
    logarithmically up to `farthest`, beyond which all share the last."""
    positions = torch.arange(n)
    distance = positions[None, :] - positions[:, None]
    half = count // 2
    near = half // 2
    size = distance.abs()
    far = near + (torch.log(size.clamp(min=1).float() / near) / math.log(farthest / near) * (half - near)).long()
    return torch.where(size < near, size, far.clamp(max=half - 1)) + half * (distance > 0)
