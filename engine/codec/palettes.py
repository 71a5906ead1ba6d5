"""Palettes: what each code of a tokenizer looks like, 4×4 pixels each, as a PNG. A model ships one, or it is computed
once and stored in the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

PATCH = 4
COLUMNS = 32


def save(path: Path, patches: np.ndarray) -> None:
    """patches uint8 (codes, 4, 4, 3): code v at row v // 32, column v % 32."""
    rows = -(-len(patches) // COLUMNS)
    cells = np.zeros((rows * COLUMNS, PATCH, PATCH, 3), np.uint8)
    cells[: len(patches)] = patches
    grid = cells.reshape(rows, COLUMNS, PATCH, PATCH, 3).swapaxes(1, 2)
    Image.fromarray(grid.reshape(rows * PATCH, COLUMNS * PATCH, 3)).save(path, "PNG")


def load(path: Path, codes: int) -> np.ndarray:
    """uint8 (codes, 4, 4, 3). Raises OSError, or ValueError when the picture has fewer patches."""
    with Image.open(path, formats=["PNG"]) as image:
        pixels = np.asarray(image.convert("RGB"))
    rows, cols = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    cells = pixels[: rows * PATCH, : cols * PATCH].reshape(rows, PATCH, cols, PATCH, 3)
    patches = cells.swapaxes(1, 2).reshape(-1, PATCH, PATCH, 3)
    if len(patches) < codes:
        raise ValueError(f"{path.name}: {len(patches)} patches for {codes} codes")
    return patches[:codes]


def cached(tokenizer: str) -> Path:
    """Path of the stored palette of a tokenizer, named by its fingerprint."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "arpg" / "palettes" / f"{tokenizer}.png"


def keep(tokenizer: str, patches: np.ndarray) -> None:
    """Store a palette in the cache, atomically. Raises OSError."""
    path = cached(tokenizer)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    save(part, patches)
    part.replace(path)
