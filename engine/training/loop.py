"""Shared by all training loops: schedules, averaged weights, checkpoints from which an interrupted run resumes.

Batches and noise are functions of (seed, step), so a resumed run gives the same result as an uninterrupted one.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def step_generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed << 32) + step)


def learning_rate(step: int, steps: int, warm_up: int, floor: float) -> float:
    """Share of the peak rate: linear warm-up, then a cosine down to `floor` at `steps`."""
    if step < warm_up:
        return (step + 1) / warm_up
    progress = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


class AveragedWeights:
    """Exponential moving average of a model's parameters and buffers, with a faster decay in the first steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        keep = min(self.decay, (1 + step) / (10 + step))
        state = model.state_dict()
        for name, value in self.values.items():
            if value.is_floating_point():
                value.lerp_(state[name], 1 - keep)
            else:
                value.copy_(state[name])


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save atomically: a run that is killed while saving keeps the older checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def save_half(state: dict[str, Tensor], path: Path) -> None:
    """Save weights as they ship: float16 safetensors."""
    values = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: v.half() if v.is_floating_point() else v for name, v in values.items()}, path)
    path.chmod(0o644)  # safetensors writes files that only the owner can read


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


def shuffled_batch(size: int, count: int, seed: int, step: int) -> Tensor:
    """Indices (size,) of batch number `step`, when each epoch of `count` is shuffled anew."""
    start = step * size
    parts = []
    for epoch in range(start // count, (start + size - 1) // count + 1):
        permutation = torch.randperm(count, generator=step_generator(seed, epoch))
        parts.append(permutation[max(0, start - epoch * count) : start + size - epoch * count])
    return torch.cat(parts)
