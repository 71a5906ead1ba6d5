"""Building blocks that the families share; every function works row by row, attention excepted."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, cast back, then scaled (Zhang & Sennrich 2019)."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.type_as(x) * self.weight


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) · w3 x), without biases (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def feed_forward_size(dim: int, multiple_of: int) -> int:
    """Hidden width of the published models: two thirds of 4·dim, rounded up to a multiple."""
    hidden = int(2 * (4 * dim) / 3)
    return -(-hidden // multiple_of) * multiple_of


def rotary_table(grid: tuple[int, int], head_dim: int, base: float = 10000.0) -> Tensor:
    """cos and sin of the 2-D rotary embedding, float32 (1 + rows·cols, head_dim / 2, 2).

    The first half of the pairs turns with the row index, the second with the column. Entry 0 is the
    condition: cos = sin = 0, so its rotated queries and keys are the zero vector, as published.
    """
    rows, cols = grid
    half = head_dim // 2
    frequencies = base ** (-torch.arange(0, half, 2)[: half // 2].float() / half)
    by_row = torch.outer(torch.arange(rows).float(), frequencies)
    by_col = torch.outer(torch.arange(cols).float(), frequencies)
    angles = torch.cat([by_row[:, None].expand(rows, cols, -1), by_col[None].expand(rows, cols, -1)], dim=-1).flatten(
        0, 1
    )
    cells = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([torch.zeros_like(cells[:1]), cells])


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn interleaved pairs of x (…, heads, head_dim) by rotary (…, head_dim / 2, 2), in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotary.unsqueeze(-3).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return turned.flatten(-2).type_as(x)
