"""Masks, fitting and compositing: the mask says which pixels are redrawn, the mask snapped to cells which tokens.

Also: which tokens of a picture a variation keeps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image

from engine.editing.blending import seamless
from engine.noise import permutation

REACH = 1 / 64
"""Depth of a seamless correction as a share of the picture's shorter side: a quarter of a token of a 16×16 grid. A
deeper correction takes its colours from new content (measured in the demo's model card)."""


BAND = 2**20
"""Pixels that are converted at a time."""


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """image uint8 (H, W, 3) resized to size (height, width): the whole picture, stretched if its shape differs. Returns
    the same array if it has this size already."""
    if image.shape[:2] == size:
        return image
    return pixels_of(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS))


def pixels_of(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3) of a picture in RGB. Pillow's own conversion holds them twice."""
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        pixels[top : top + rows] = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
    return pixels


def fixed_cells(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """bool (rows, cols), True where the token is kept. mask bool (H, W), of any size: True where a pixel is redrawn. A
    cell is redrawn if a masked pixel touches it, so every masked pixel is covered by a drawn token."""
    return ~_any_in_cells(_any_in_cells(mask, grid[0]).T, grid[1]).T


def fixed_tokens(tokens: np.ndarray, fixed: np.ndarray) -> dict[int, int]:
    """Grid position → token, of those tokens (rows, cols) where fixed bool (rows, cols) is True."""
    flat = tokens.ravel()
    return {int(position): int(flat[position]) for position in np.flatnonzero(fixed.ravel())}


def composite(
    original: np.ndarray,
    drawn: np.ndarray,
    mask: np.ndarray,
    feather: int = 0,
    *,
    smooth: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """drawn uint8 (h, w, 3), resized, where mask bool (H, W) is True; original uint8 (H, W, 3), unchanged, elsewhere.

    feather: width in pixels of the blend inside the mask's border. The n-th pixel from the border, counted along rows
    and columns, is n / (feather + 1) drawn. smooth: correct the drawn part so that it meets the original seamlessly.
    out: the array to write, original itself too; None: a new one.
    """
    result = original.copy() if out is None else out
    border, weight = _feathered(mask, feather)
    kept = original[border]  # original may be written over
    fitted = fit(drawn, original.shape[:2])
    if smooth:
        seamless(original, fitted, mask, REACH * min(mask.shape), out=result)
    else:
        np.copyto(result, fitted, where=mask[..., None])
    result[border] = np.rint(weight * result[border] + (1 - weight) * kept)
    return result


def _feathered(mask: np.ndarray, feather: int) -> tuple[np.ndarray, np.ndarray]:
    """The n masked pixels that are blended, bool (H, W), and which share of each is drawn, float32 (n, 1)."""
    if not feather:
        return np.zeros_like(mask), np.empty((0, 1), dtype=np.float32)
    depth = _depth(mask)
    border = mask & (depth <= feather)
    return border, depth[border, None] / np.float32(feather + 1)


def _any_in_cells(mask: np.ndarray, cells: int) -> np.ndarray:
    """Reduce the first axis to cells by any(): cell i covers the pixels that [i, i + 1) · len / cells touches."""
    n = len(mask)
    starts = [i * n // cells for i in range(cells)]
    ends = [-(-(i + 1) * n // cells) for i in range(cells)]
    return np.stack([mask[start:end].any(0) for start, end in zip(starts, ends, strict=True)])


def _depth(mask: np.ndarray) -> np.ndarray:
    """Distance float32 (H, W) of each masked pixel to the nearest unmasked one, in steps along rows and columns."""
    depth = np.where(mask, np.float32(np.inf), np.float32(0))
    for lines in (depth, depth[::-1], depth.T, depth.T[::-1]):
        for previous, line in pairwise(lines):
            np.minimum(line, previous + 1, out=line)
    return depth


def kept_cells(seed: int, share: float, grid: tuple[int, int]) -> np.ndarray:
    """bool (rows, cols): True for a share (0 … 1) of the cells, chosen by the seed; at least one, and not all."""
    positions = grid[0] * grid[1]
    count = min(max(1, round(share * positions)), positions - 1)
    keep = np.zeros(grid, dtype=bool)
    keep.flat[list(permutation(seed, "keep", range(positions))[:count])] = True
    return keep
