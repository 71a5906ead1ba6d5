"""The gate of the SwiGLU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.ops.gpu.launching import Launch

BLOCK = 1024


@triton.jit
def swiglu_kernel(out, gate_up, hidden: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = gate_up + row * 2 * hidden + lane
    gate = tl.load(at, mask=lane < hidden, other=0.0).to(tl.float32)
    up = tl.load(at + hidden, mask=lane < hidden, other=0.0).to(tl.float32)
    dtype = out.dtype.element_ty
    gate = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)  # rounded as torch's silu is
    tl.store(out + row * hidden + lane, (gate * up).to(dtype), mask=lane < hidden)


def swiglu(launch: Launch, gate_up: Tensor) -> Tensor:
    """silu(gate) · up (rows, hidden) of gate_up (rows, 2 · hidden), which is contiguous."""
    rows, hidden = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, hidden, dtype=gate_up.dtype, device=gate_up.device)
    block = min(BLOCK, triton.next_power_of_2(hidden))
    launch(swiglu_kernel, (rows, triton.cdiv(hidden, block)), out, gate_up, hidden=hidden, BLOCK=block)
    return out
