"""The pictures that a job starts from: as they come, and as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from service.tasks import images, recipe
from service.tasks.images import ImageError, Limits, MaskMode

UPLOADS: dict[str, tuple[str, ...]] = {"inpaint": ("image", "mask"), "outpaint": ("image",), "vary": ("image",)}
"""What the tasks start from; the others start from nothing."""


def uploads_of(payload: Mapping[str, Any]) -> dict[str, str]:
    """Their names, by what they are."""
    return {what: payload[what] for what in UPLOADS.get(payload["task"], ())}


def needed_to_fork(payload: Mapping[str, Any]) -> dict[str, str]:
    """Those that a fork needs beside a finished picture: but for the mask, and a border that is blended, all that it
    takes of the upload is in the picture."""
    return {what: name for what, name in uploads_of(payload).items() if what == "mask" or payload.get("feather")}


def read_image(image: bytes | str, limits: Limits) -> tuple[np.ndarray, bytes]:
    """A file, or its base64: uint8 (H, W, 3), and the same as PNG, with what it tells of itself. Raises ImageError."""
    data = _bytes(image, "image")
    pixels = images.decode_image(data, "image", limits)
    told = recipe.text_of(data)
    return pixels, images.encode(pixels, "png", level=1, text=None if told is None else {recipe.KEYWORD: told})


def read_mask(
    mask: bytes | str | None, image: bytes | str | None, pixels: np.ndarray, mode: MaskMode, limits: Limits
) -> tuple[np.ndarray, bytes]:
    """bool (H, W), True where the picture, pixels uint8 (H, W, 3), is repainted, and the same as PNG. image: the
    upload, whose transparency may stand for a mask. Raises ImageError."""
    if mask is not None:
        found = images.decode_mask(_bytes(mask, "mask"), "mask", mode, limits)
    elif mode == "alpha" and image is not None:
        found = images.decode_mask(_bytes(image, "image"), "image", mode, limits)
    else:
        raise ImageError("mask", "missing", "is needed, unless mask_mode is alpha and the picture is transparent")
    images.check_mask(found, pixels)
    return found, images.encode(found, "png")


def _bytes(picture: bytes | str, field: str) -> bytes:
    return images.from_base64(picture, field) if isinstance(picture, str) else picture
