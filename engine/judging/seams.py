"""How far the border of what was drawn can be seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.request import Window


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


def window_areas(windows: Sequence[Window], known: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """int (rows, cols): which of the windows, each of that size, draws a cell; -1 where it is known."""
    areas = np.full(known.shape, -1)
    for index, window in reversed(list(enumerate(windows))):
        areas[window.row : window.row + size[0], window.col : window.col + size[1]] = index
    areas[known] = -1
    return areas


def window_seams(picture: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """For each area but the first that was drawn: the mean |gradient across its border with earlier ones| minus that
    across the lines between tokens elsewhere in the picture, float (areas - 1,), in levels of 255."""
    stride = picture.shape[0] // areas.shape[0]
    fine = areas.repeat(stride, 0).repeat(stride, 1)
    levels = picture.astype(np.float64)
    steps, later, elsewhere = [], [], []
    for axis in (0, 1):
        before, after = (np.delete(fine, at, axis) for at in (-1, 0))
        steps.append(np.abs(np.diff(levels, axis=axis)).mean(2).ravel())
        later.append(np.where(before != after, np.maximum(before, after), areas.min()).ravel())
        lines = np.arange(1, len(fine) if axis == 0 else fine.shape[1]) % stride == 0
        elsewhere.append(((before == after) & (lines[:, None] if axis == 0 else lines)).ravel())
    step, area, plain = (np.concatenate(parts) for parts in (steps, later, elsewhere))
    usual = step[plain].mean()
    return np.array([step[area == index].mean() - usual for index in range(areas.min() + 1, areas.max() + 1)])
