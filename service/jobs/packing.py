"""Small arrays as text: a bit for each cell of a boolean grid, zlib for a token map, both in base64."""

from __future__ import annotations

import base64
import zlib

import numpy as np


class PackingError(ValueError):
    """A text does not hold the array that it should; the message says why."""


def pack_tokens(tokens: np.ndarray) -> str:
    """Non-negative tokens int (rows, cols), row-major, little-endian, 16 or 32 bits each, compressed."""
    size = "<u2" if tokens.max() < 2**16 else "<u4"
    return base64.b64encode(zlib.compress(tokens.astype(size).tobytes(), 9)).decode()


def unpack_tokens(text: str, grid: tuple[int, int]) -> np.ndarray:
    """int32 (rows, cols). Raises PackingError."""
    count = grid[0] * grid[1]
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(_bytes(text), 4 * count + 1)
    except zlib.error:
        raise PackingError("its token map is damaged") from None
    if not stream.eof or stream.unused_data or len(data) not in (2 * count, 4 * count):
        raise PackingError(f"its token map is not one of {grid[0]}×{grid[1]} tokens")
    tokens = np.frombuffer(data, "<u2" if len(data) == 2 * count else "<u4").reshape(grid)
    if tokens.max() >= 2**31:
        raise PackingError("its token map has a token beyond any codebook")
    return tokens.astype(np.int32)


def pack_bits(cells: np.ndarray) -> str:
    """bool (rows, cols), row-major, the highest bit first."""
    return base64.b64encode(np.packbits(cells).tobytes()).decode()


def unpack_bits(text: str, grid: tuple[int, int]) -> np.ndarray:
    """bool (rows, cols). Raises PackingError."""
    count = grid[0] * grid[1]
    data = _bytes(text)
    if len(data) != -(-count // 8):
        raise PackingError(f"its fixed tokens are not of {grid[0]}×{grid[1]} tokens")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(bool).reshape(grid)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise PackingError("it is damaged: this is not base64") from None
