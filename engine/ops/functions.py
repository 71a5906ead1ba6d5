"""The elementary functions of the published networks, in torch. All work row by row."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-5
"""Of the RMS norm, in all published models."""


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Root-mean-square norm in float32, cast back, then scaled (Zhang & Sennrich 2019)."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON)
    return normed.type_as(x) * weight


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate interleaved pairs of x (…, heads, head_dim) by rotary (…, head_dim / 2, 2), in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotary.unsqueeze(-3).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return turned.flatten(-2).type_as(x)
