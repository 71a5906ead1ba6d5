"""FID's Inception network with random weights under the public key names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.evaluation.adm.inception import Inception


def random_inception_state() -> dict[str, Tensor]:
    """As the public file has it, with num_batches_tracked; drawn by numpy, whose numbers stay the same. Features of
    pictures differ, and are neither 0 nor large."""
    rng = np.random.default_rng(0)
    state: dict[str, Tensor] = {}
    for key, value in sorted(Inception().state_dict().items()):
        drawn = rng.standard_normal(tuple(value.shape), dtype=np.float32)
        if key.endswith("conv.weight"):
            drawn *= (2 / np.prod(value.shape[1:])) ** 0.5
        elif key.endswith("running_var"):
            drawn = np.exp(0.1 * drawn)
            state[key.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
        elif key.endswith("bn.weight"):
            drawn = 1 + 0.1 * drawn
        else:
            drawn *= 0.1
        state[key] = torch.from_numpy(np.asarray(drawn, np.float32))
    return state


def write_random_inception(path: Path) -> Path:
    torch.save(random_inception_state(), path)
    return path


def pictures() -> np.ndarray:
    """uint8 (2, 40, 56, 3): one of noise, one smooth."""
    rows, cols = np.mgrid[0:40, 0:56]
    smooth = np.stack([4 * rows + cols, 255 - 3 * cols, (rows * cols) // 9], -1)
    return np.stack([np.random.default_rng(1).integers(0, 256, (40, 56, 3)), smooth]).astype(np.uint8)
