"""Pictures that tests send and read."""

from __future__ import annotations

import numpy as np

from service.tasks.pictures.errors import Limits
from service.tasks.pictures.images import decode, examine
from service.tasks.pictures.masks import MaskMode, select


def decode_mask(data: bytes, field: str, mode: MaskMode, limits: Limits) -> np.ndarray:
    """bool (H, W), upright: True where the picture is to be drawn again."""
    return decode(examine(data, field, limits), field, limits, lambda image: select(image, mode, field)).pixels
