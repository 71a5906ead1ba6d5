"""The one place where Triton kernels are launched."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Launch(Protocol):
    """Starts a kernel: grid holds the number of programs on each axis; out is the kernel's first argument."""

    def __call__(
        self, kernel: Any, grid: tuple[int, ...], out: Tensor, *arguments: Tensor | float, **constants: Any
    ) -> None: ...


def launch(kernel: Any, grid: tuple[int, ...], out: Tensor, *arguments: Tensor | float, **constants: Any) -> None:
    """Starts a kernel on the device of `out`. On meta tensors there is nothing to compute; on a CPU the kernel must be
    one of Triton's interpreter."""
    if out.device.type == "meta":
        return
    if out.device.type != "cuda":
        kernel[grid](out, *arguments, **constants)
        return
    with torch.cuda.device(out.device):  # Triton launches on the thread's current device
        kernel[grid](out, *arguments, **constants)
