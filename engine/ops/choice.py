"""Which implementation computes the operations."""

from __future__ import annotations

import torch

from engine.ops.operations import Operations
from engine.ops.reference import TorchOperations

ROW_TILE = 32


def choose_operations(device: torch.device, dtype: torch.dtype, *, batch_invariant: bool) -> Operations:
    """batch_invariant: matrices are multiplied in fixed tiles of rows, on a CPU. Triton's kernels serve GPUs. The
    compiled functions serve float32 on a CPU where numba is installed (extra `cpu`); torch serves everything else.

    Raises RuntimeError for a GPU without Triton: torch alone would be several times slower.
    """
    if device.type == "cuda":
        try:
            from engine.ops.gpu.operations import TritonOperations
        except ImportError as error:
            message = "device: a GPU needs Triton, which is not installed; install triton, or set the device to cpu"
            raise RuntimeError(message) from error
        return TritonOperations()
    tile = ROW_TILE if batch_invariant else None
    if device.type == "cpu" and dtype == torch.float32:
        try:
            from engine.ops.cpu import CompiledOperations

            return CompiledOperations(tile)
        except ImportError:  # no numba, or a torch with another OpenMP library
            return TorchOperations(tile)
    return TorchOperations(tile)
