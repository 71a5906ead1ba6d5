"""Which tokens of a picture a variation of it keeps."""

from __future__ import annotations

import numpy as np

from engine.noise import permutation


def kept(seed: int, share: float, grid: tuple[int, int]) -> np.ndarray:
    """bool (rows, cols): as many as the share of them (0 … 1) says, but never all and never none."""
    positions = grid[0] * grid[1]
    count = min(max(1, round(share * positions)), positions - 1)
    keep = np.zeros(grid, dtype=bool)
    keep.flat[list(permutation(seed, "keep", range(positions))[:count])] = True
    return keep
