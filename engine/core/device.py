"""What a GPU does beside computing: copies to it and from it, captured graphs, and streams.

The runner knows a GPU through this alone, so the tests put a device in its place that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

Wait = Callable[[], None]


class Device(Protocol):
    """A device whose work is queued: calls return before it is done. All of them are made inside `working`."""

    def working(self) -> AbstractContextManager[None]: ...

    def pinned(self, size: int) -> Tensor:
        """int32 (size,) in host memory that copies to the device without blocking."""
        ...

    def zeros(self, size: int) -> Tensor:
        """int32 (size,) on the device. Zeros are a step that is valid: a graph is captured before any step is there."""
        ...

    def upload(self, host: Tensor, target: Tensor) -> Wait:
        """Copies pinned memory to the device. The result waits until the host may write to it again."""
        ...

    def download(self, source: Tensor) -> Callable[[], list[int]]:
        """Begins to copy from the device. The result waits for the copy and returns the numbers."""
        ...

    def capture(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A graph of the kernels that `compute` launches. Each call of the result launches them all at once on the same
        memory, and returns the same tensor."""
        ...


class CudaDevice:
    """One stream, so that steps are computed in the order in which they are dispatched, and one pool of memory for all
    graphs, of which one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=-1)  # before the codec, whose stream has 0
        self._stream.wait_stream(torch.cuda.current_stream(device))  # the weights are on their way
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def working(self) -> Iterator[None]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            yield

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.int32, pin_memory=True)

    def zeros(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.int32, device=self._device)

    def upload(self, host: Tensor, target: Tensor) -> Wait:
        target.copy_(host, non_blocking=True)
        return self._stream.record_event().synchronize

    def download(self, source: Tensor) -> Callable[[], list[int]]:
        host = self.pinned(len(source))
        host.copy_(source, non_blocking=True)
        copied = self._stream.record_event()

        def read() -> list[int]:
            copied.synchronize()
            return host.tolist()

        return read

    def capture(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        compute()  # compiles kernels and chooses algorithms, which a capture can't
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = compute()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
