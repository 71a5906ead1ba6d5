"""RMS norm, and the guided norm before the head. Sums and guidance in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.ops.functions import EPSILON
from engine.ops.gpu.launching import Launch


@triton.jit
def rms_norm_kernel(  # type: ignore[no-untyped-def]
    out, x, weight, x_stride, eps, dim: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    wide = tl.load(x + row * x_stride + lane, mask=lane < dim, other=0.0).to(tl.float32)
    normed = wide * tl.rsqrt(tl.sum(wide * wide, 0) / dim + eps)
    # Cast, then scale, as the published networks round.
    normed = normed.to(out.dtype.element_ty).to(tl.float32)
    scaled = normed * tl.load(weight + lane, mask=lane < dim, other=0.0).to(tl.float32)
    tl.store(out + row * dim + lane, scaled.to(out.dtype.element_ty), mask=lane < dim)


@triton.jit
def guided_norm_kernel(  # type: ignore[no-untyped-def]
    out, x, weight, conditional, unconditional, scale, x_stride, eps, dim: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    at_c = tl.load(conditional + row).to(tl.int64) * x_stride
    at_u = tl.load(unconditional + row).to(tl.int64) * x_stride
    c = tl.load(x + at_c + lane, mask=lane < dim, other=0.0).to(tl.float32)
    u = tl.load(x + at_u + lane, mask=lane < dim, other=0.0).to(tl.float32)
    c = c * tl.rsqrt(tl.sum(c * c, 0) / dim + eps)
    u = u * tl.rsqrt(tl.sum(u * u, 0) / dim + eps)
    guided = (u + (c - u) * tl.load(scale + row)) * tl.load(weight + lane, mask=lane < dim, other=0.0).to(tl.float32)
    tl.store(out + row * dim + lane, guided.to(out.dtype.element_ty), mask=lane < dim)


def rms_norm(launch: Launch, x: Tensor, weight: Tensor) -> Tensor:
    """As ops.functions.rms_norm. x (rows, dim): its rows may overlap (stride 0), each row is contiguous."""
    rows, dim = x.shape
    out = torch.empty(rows, dim, dtype=x.dtype, device=x.device)
    launch(rms_norm_kernel, (rows,), out, x, weight, x.stride(0), EPSILON, dim=dim, **_block(dim))
    return out


def guided_norm(
    launch: Launch, x: Tensor, weight: Tensor, conditional: Tensor, unconditional: Tensor, scale: Tensor
) -> Tensor:
    """u + s · (c - u) of normed rows (n, dim), without rounding in between, in the weight's dtype. conditional and
    unconditional (n,) int32: rows of x (rows, dim). scale (n,) float32."""
    rows, dim = conditional.shape[0], x.shape[1]
    out = torch.empty(rows, dim, dtype=weight.dtype, device=x.device)
    launch(
        guided_norm_kernel, (rows,), out, x, weight, conditional, unconditional, scale, x.stride(0), EPSILON,
        dim=dim, **_block(dim),
    )  # fmt: skip
    return out


def _block(dim: int) -> dict[str, int]:
    """One program holds a row in registers: 8 elements a thread."""
    block = triton.next_power_of_2(dim)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 16)}
