"""Building blocks that the families share. All work row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.ops.functions import rms_norm
from engine.request import RopeScaling

NTK_TURNS = 2.0


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, cast back, then scaled (Zhang & Sennrich 2019)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight)


def merge(*linears: nn.Linear) -> Tensor:
    """The matrices of linear layers without biases as one, (sum of outs, in), which multiplies in one product. The
    layers' own matrices become parts of it, so it takes no memory of its own."""
    merged = torch.cat([linear.weight.detach() for linear in linears])
    for linear, part in zip(linears, merged.split([linear.out_features for linear in linears]), strict=True):
        linear.weight = nn.Parameter(part, requires_grad=False)
    return merged


def join_embeddings(tables: Sequence[nn.Embedding]) -> Tensor:
    """The tables as one, (sum of ids, dim). Like the matrices of `merge`, they become parts of it."""
    joined = torch.cat([table.weight.detach() for table in tables])
    for table, part in zip(tables, joined.split([table.num_embeddings for table in tables]), strict=True):
        table.weight = nn.Parameter(part, requires_grad=False)
    return joined


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


def rotary_table(
    grid: tuple[int, int],
    head_dim: int,
    *,
    trained: tuple[int, int] | None = None,
    rope_scaling: RopeScaling = "extrapolate",
    base: float = 10000.0,
) -> Tensor:
    """cos and sin of the 2-D rotary embedding, float32 (1 + rows·cols, head_dim / 2, 2).

    The first half of the pairs rotates with the row index, the second with the column. Entry 0 is the condition: cos =
    sin = 0, so its rotated queries and keys are the zero vector, as published.

    rope_scaling applies to a side that is longer than the trained one. "extrapolate" continues the positions.
    "interpolate" (Chen et al. 2023) scales all frequencies so that the positions fit the trained length. "ntk" (by
    parts, Peng et al. 2023; RandAR mixes likewise) keeps frequencies that turn at least NTK_TURNS times within the
    trained length, scales those that turn less than once, and mixes the two in between.
    """
    half = head_dim // 2
    frequencies = base ** (-torch.arange(0, half, 2)[: half // 2].float() / half)
    by_row, by_col = (
        torch.outer(torch.arange(side).float(), _scaled(frequencies, side, length, rope_scaling))
        for side, length in zip(grid, trained or grid, strict=True)
    )
    rows, cols = grid
    angles = torch.cat([by_row[:, None].expand(rows, cols, -1), by_col[None].expand(rows, cols, -1)], dim=-1).flatten(
        0, 1
    )
    cells = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([torch.zeros_like(cells[:1]), cells])


def _scaled(frequencies: Tensor, side: int, trained: int, rope_scaling: RopeScaling) -> Tensor:
    if side <= trained or rope_scaling == "extrapolate":
        return frequencies
    squeezed = frequencies * (trained / side)
    if rope_scaling == "interpolate":
        return squeezed
    turns = trained * frequencies / (2 * math.pi)
    kept = ((turns - 1) / (NTK_TURNS - 1)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * squeezed
