"""A picture while it is drawn, as a small JPEG. It blocks: it runs beside the engine's thread."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np

from engine.request import EMPTY
from service.tasks.pictures.images import encode

if TYPE_CHECKING:
    from engine.codec.codec import Codec

NEUTRAL = 128
QUALITY = 80


def preview(tokens: np.ndarray, codec: Codec) -> str:
    """Base64 of a JPEG, grey where nothing is drawn yet. tokens: int (rows, cols), EMPTY in those cells."""
    undrawn = tokens == EMPTY
    picture = codec.decode(_filled(tokens, undrawn))
    grey = np.kron(undrawn, np.ones((codec.stride, codec.stride), dtype=bool))
    shown = np.where(grey[..., None], np.uint8(NEUTRAL), picture)
    return base64.b64encode(encode(shown, "jpeg", QUALITY)).decode()


def _filled(tokens: np.ndarray, undrawn: np.ndarray) -> np.ndarray:
    """Undrawn cells take the token of the nearest drawn cell, because the decoder looks across cells."""
    holes, drawn = np.argwhere(undrawn), np.argwhere(~undrawn)
    if not len(holes) or not len(drawn):
        return np.maximum(tokens, 0)
    (hole_rows, hole_cols), (rows, cols) = holes.T.astype(np.int32), drawn.T.astype(np.int32)
    nearest = ((hole_rows[:, None] - rows) ** 2 + (hole_cols[:, None] - cols) ** 2).argmin(1)
    filled = tokens.copy()
    filled[undrawn] = tokens[tuple(drawn[nearest].T)]
    return filled
