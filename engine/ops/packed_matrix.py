"""Matrices in the layout that oneDNN multiplies fastest on a CPU. With the few rows of a step this takes a fifth to two
thirds of the time of torch's own product."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PACKED_FOR = 64
"""Rows that the layout is chosen for. It serves any number."""


def pack_matrix(weight: Tensor) -> Tensor:
    """A matrix (out, in) for `product`: packed in float32 and in bfloat16 where oneDNN and the processor can, otherwise
    the matrix itself."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return weight
    if weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_FOR)
    return weight


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x · weightᵀ: (rows, in) → (rows, out). weight (out, in), packed or not."""
    if not weight.is_mkldnn:
        return F.linear(x, weight)
    rows = len(x)
    padded = _with_padding(x, padded_rows(rows))
    return torch.ops.mkldnn._linear_pointwise(padded, weight, None, "none", [], "")[:rows]


def padded_rows(rows: int) -> int:
    """The number of rows that are multiplied in place of `rows`. oneDNN generates code for each number of rows, which
    takes half a millisecond, and keeps about a thousand of them. One row alone would be rounded otherwise."""
    if rows <= 8:
        return max(rows, 2)
    step = 8 if rows <= 128 else 32 if rows <= 512 else 128
    return -(-rows // step) * step


def _with_padding(x: Tensor, rows: int) -> Tensor:
    """x (n, in) with more rows behind it, which may hold anything: those in its memory if it has them."""
    width = x.shape[1]
    if rows == len(x):
        return x
    end = x.storage_offset() + rows * width
    if x.is_contiguous() and end * x.element_size() <= x.untyped_storage().nbytes():
        return x.as_strided((rows, width), (width, 1))
    return F.pad(x, (0, 0, 0, rows - len(x)))
