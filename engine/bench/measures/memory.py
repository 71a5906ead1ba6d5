"""The KV cache that the engine reserves for an image against the least that would do, and the peak memory."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch

from engine.core.engine import Engine
from engine.models.arpg import ARPGConfig
from engine.plans.schedule import step_counts
from engine.request import Request


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Bytes of KV cache for one image, all branches."""

    reserved: int
    minimum: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.reserved / self.minimum}


def default_dtype(device: str) -> torch.dtype:
    """The engine's, when its configuration names none."""
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def bytes_per_row(config: ARPGConfig, dtype: torch.dtype) -> int:
    """Of an ARPG: keys and values of each self layer, and the shared ones."""
    return 2 * (config.n_layer // 2 + 1) * config.dim * dtype.itemsize


def cache_use(engine: Engine, request: Request, bytes_per_row: int) -> CacheUse:
    """Of a class-conditional request for an ARPG. The minimum has a row for the class and for each token but those of
    the last step, whose keys and values no later step reads."""
    rows, cols = request.grid or engine.model.grid
    branches = 1 if request.guidance_scale == 1 else 2
    needed = 1 + rows * cols - step_counts(rows * cols, request.steps, request.schedule)[-1]
    return CacheUse(engine.cost(request) * bytes_per_row, needed * branches * bytes_per_row)


def peak_memory(device: str) -> int:
    """The most bytes that this process has used since it began: of the GPU's memory, or of main memory on a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    import resource  # Unix only

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
