"""Partial images, in the format and size of the finished picture."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from engine.editing.masks import fit
from service.jobs.spec import JobSpec
from service.tasks.pictures.images import encode, rgb

NEUTRAL = 128
"""The grey of what is not drawn yet, as in a worker's preview."""


def shown(preview: bytes, spec: JobSpec) -> str:
    """Base64 of a worker's preview."""
    with Image.open(io.BytesIO(preview), formats=["JPEG"]) as picture:
        return _encoded(fit(np.asarray(rgb(picture)), spec.size), spec)


def half_drawn(png: bytes, cells: np.ndarray, spec: JobSpec) -> str:
    """Base64 of the finished picture, grey outside of these cells, bool (rows, cols)."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        pixels = np.asarray(rgb(picture))
    (height, width), (rows, cols) = spec.size, cells.shape
    visible = cells[np.arange(height) * rows // height][:, np.arange(width) * cols // width]
    return _encoded(np.where(visible[..., None], pixels, np.uint8(NEUTRAL)), spec)


def _encoded(pixels: np.ndarray, spec: JobSpec) -> str:
    return base64.b64encode(encode(pixels, spec.output.format, spec.output.quality, quick=True)).decode()
