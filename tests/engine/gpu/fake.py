"""A device that counts what a GPU would do, on tensors in host memory or on none (`meta`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NO_KERNEL = {
    "empty",
    "empty_like",
    "t",
    "view",
    "slice",
    "select",
    "expand",
    "unsqueeze",
    "squeeze",
    "unbind",
    "detach",
}


class Kernels(TorchDispatchMode):
    """The kernels that torch and Triton launch, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        self.names.append(kernel.__name__)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "item", "nonzero"):
            raise AssertionError(f"{name} waits for the device")
        if name not in NO_KERNEL:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@dataclass
class FakeDevice:
    """log: what was done, in order: upload, graph, download, wait for an upload, read."""

    place: str = "cpu"
    kernels: Kernels = field(default_factory=Kernels)
    log: list[str] = field(default_factory=list)
    graphs: int = 0

    def working(self) -> AbstractContextManager[None]:
        return nullcontext()

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.int32)

    def zeros(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.int32, device=self.place)

    def upload(self, host: Tensor, target: Tensor) -> Callable[[], None]:
        self.log.append("upload")
        sent = host.clone()
        target.copy_(host)

        def wait() -> None:
            self.log.append("wait")
            assert torch.equal(sent, host), "the host wrote to a buffer that was being copied"

        return wait

    def download(self, source: Tensor) -> Callable[[], list[int]]:
        self.log.append("download")
        copied = source.clone() if source.device.type != "meta" else torch.zeros(len(source), dtype=torch.int32)

        def read() -> list[int]:
            self.log.append("read")
            return copied.tolist()

        return read

    def capture(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.graphs += 1
        result = compute().clone()

        def replay() -> Tensor:
            self.log.append("graph")
            with self.kernels:
                computed = compute()
            return result.copy_(computed)

        return replay
