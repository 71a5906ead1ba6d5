"""Where a codec computes: in which precision, beside what, and how its arrays get there and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Placement(Protocol):
    """dtype: of the decoder. together: at most so many pictures are best decoded in one call. palette_batch: codes that
    are decoded together, each as a picture of one token. Uploads, computations and downloads run inside `working`."""

    dtype: torch.dtype
    together: int
    palette_batch: int

    def working(self) -> AbstractContextManager[None]: ...

    def upload(self, array: np.ndarray) -> Tensor: ...

    def download(self, tensor: Tensor) -> np.ndarray: ...


class OnCpu:
    dtype = torch.float32
    together = 1  # what one needs fills the processor's cache, so that more together gain nothing
    palette_batch = 32

    def working(self) -> AbstractContextManager[None]:
        return nullcontext()

    def upload(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array)

    def download(self, tensor: Tensor) -> np.ndarray:
        array: np.ndarray = tensor.numpy()
        return array


class OnGpu:
    """On a stream of its own, so that a download waits for the codec's work and not for the engine's steps. The stream
    has the lowest priority: steps that are ready run first."""

    dtype = torch.bfloat16
    together = 32
    palette_batch = 512

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=0)
        self._stream.wait_stream(torch.cuda.current_stream(device))  # the weights are on their way
        # For the process, but only the encoder has float32 convolutions. TF32 would choose other codes than published.
        torch.backends.cudnn.allow_tf32 = False

    @contextmanager
    def working(self) -> Iterator[None]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            yield

    def upload(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).pin_memory().to(self._device, non_blocking=True)

    def download(self, tensor: Tensor) -> np.ndarray:
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        pinned.copy_(tensor, non_blocking=True)
        self._stream.record_event().synchronize()
        array: np.ndarray = pinned.numpy()
        return array


def placement_on(device: torch.device) -> Placement:
    return OnGpu(device) if device.type == "cuda" else OnCpu()
