"""Synchronous data parallelism over a few processes of one thread each.

On a CPU that is shared with other work this is faster than one process of many threads: processes synchronise once a
step, threads at every operation. A batch is divided among the processes, so their number does not change the result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that train together; a team of one needs no process group."""

    rank: int = 0
    size: int = 1

    def share(self, batch: Tensor) -> Tensor:
        """This member's part of a batch whose length the size divides."""
        return batch if self.size == 1 else batch[self.rank :: self.size]

    def average_gradients(self, model: nn.Module) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if self.size > 1:
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            flat /= self.size
            for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def sum(self, value: Tensor) -> Tensor:
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def from_first(self, value: Tensor) -> Tensor:
        if self.size > 1:
            dist.broadcast(value, 0)
        return value


ALONE = Team()


def run_team(work: Callable[..., Any], processes: int, *arguments: Any) -> None:
    """Call work(team, *arguments) in each of the processes and wait for all."""
    if processes == 1:
        work(ALONE, *arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(
            _member, (processes, Path(folder) / "store", work, arguments), nprocs=processes, join=True
        )


def _member(rank: int, size: int, store: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        work(Team(rank, size), *arguments)
    finally:
        dist.destroy_process_group()
