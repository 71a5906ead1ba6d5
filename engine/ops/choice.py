"""Which device computes, and which implementation of the operations."""

from __future__ import annotations

import contextlib

import torch

from engine.ops.operations import Operations
from engine.ops.reference import TorchOperations

ROW_TILE = 32
DEVICES = "cpu, cuda, or cuda:1 for the second GPU"


class DeviceError(RuntimeError):
    """There is no such device, or it can't be used here. The message says what to do."""


def choose_device(name: str | None = None) -> torch.device:
    """The device of this name; None: the GPU if there is one, else the CPU. Raises DeviceError."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda" if gpus else "cpu")
    device: torch.device | None = None
    with contextlib.suppress(RuntimeError):
        device = torch.device(name)
    if device is None or device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device: there is no device {name!r}; the devices are {DEVICES}")
    if device.type == "cuda" and (device.index or 0) >= gpus:
        if gpus:
            reason = f"this machine has {gpus} GPU{'s' if gpus > 1 else ''}, and cuda:0 is the first"
        elif torch.version.cuda is None and torch.version.hip is None:
            reason = f"torch {torch.__version__} was built without CUDA"
        else:
            reason = f"torch {torch.__version__} finds no GPU that it can use"
        cure = "set the device to cpu, or let `arpg doctor` say what a GPU needs"
        raise DeviceError(f"device: there is no {name}: {reason}; {cure}")
    return device


def choose_operations(device: torch.device, dtype: torch.dtype, *, batch_invariant: bool) -> Operations:
    """batch_invariant: matrices are multiplied in fixed tiles of rows, on a CPU. Triton's kernels serve GPUs. The
    compiled functions serve float32 on a CPU where numba is installed (extra `cpu`); torch serves everything else.

    Raises DeviceError for a GPU without Triton: torch alone would be several times slower.
    """
    if device.type == "cuda":
        try:
            from engine.ops.gpu.operations import TritonOperations
        except ImportError as error:
            message = "device: a GPU needs Triton, which is not installed; install triton, or set the device to cpu"
            raise DeviceError(message) from error
        return TritonOperations()
    tile = ROW_TILE if batch_invariant else None
    if device.type == "cpu" and dtype == torch.float32:
        try:
            from engine.ops.cpu import CompiledOperations

            return CompiledOperations(tile)
        except ImportError:  # no numba, or a torch with another OpenMP library
            return TorchOperations(tile)
    return TorchOperations(tile)
