"""How far the border of what was drawn can be seen."""

from __future__ import annotations

import numpy as np


def seams(drawn: np.ndarray, real: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """For each picture, the mean |gradient across the border of its mask| minus that of the real picture there.

    Pictures uint8 (n, H, W, 3), masks bool (n, H, W); the result float (n,), in levels of 255. Above 0 the border is
    harder than in the real picture, below 0 smoother.
    """
    pairs = zip(drawn, real, masks, strict=True)
    return np.array([across(mask, picture) - across(mask, there) for picture, there, mask in pairs])


def across(mask: np.ndarray, picture: np.ndarray) -> float:
    """Mean absolute difference, in levels of 255, of the neighbouring pixels that the border of a mask parts."""
    levels = picture.astype(np.float64)
    steps = [
        np.abs(np.diff(levels, axis=axis)).mean(2)[np.diff(mask.astype(np.int8), axis=axis) != 0] for axis in (0, 1)
    ]
    return float(np.concatenate(steps).mean())
