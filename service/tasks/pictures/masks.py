"""Which pixels a mask selects: by their brightness, their transparency, or because they are not 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from service.tasks.pictures.errors import ImageError
from service.tasks.pictures.images import alpha, bands, rgb
from service.tasks.pictures.structure import Structure

MaskMode = Literal["white", "black", "alpha", "nonzero"]

THRESHOLD = 128
"""Soft masks are cut here: a luminance of 128 … 255 is white, an alpha of 0 … 127 is transparent."""

_REDRAWN: dict[MaskMode, str] = {
    "white": "the upper half of the range is white, which is redrawn; for a mask of 0 and 1 use mask_mode=nonzero",
    "black": "with mask_mode=black the lower half of the range is redrawn",
    "alpha": "with mask_mode=alpha an alpha in the lower half of the range is redrawn",
    "nonzero": "with mask_mode=nonzero all values above 0 are redrawn",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """pixels: bool (H, W), True where the picture is drawn again. lowest, highest: of the mask's values, which go up to
    `most`."""

    pixels: np.ndarray
    mode: MaskMode
    lowest: int
    highest: int
    most: int

    def resized(self, size: tuple[int, int]) -> Selection:
        """For a picture of the same shape and this size (height, width)."""
        if self.pixels.shape == size:
            return self
        grey = Image.fromarray(self.pixels.astype(np.uint8) * 255)
        grey = grey.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return replace(self, pixels=np.asarray(grey) >= THRESHOLD)

    def check(self, field: str) -> None:
        """There must be something to draw, and something to keep. Raises ImageError."""
        some, every = self.pixels.any(), self.pixels.all()
        if some and not every:
            return
        values = "alpha" if self.mode == "alpha" else "value"
        side, value = ("highest", self.highest) if self.mode in ("white", "nonzero") else ("lowest", self.lowest)
        if every:
            side, value = ("lowest", self.lowest) if side == "highest" else ("highest", self.highest)
        told = f"its {side} {values} is {value} of {self.most}: {_REDRAWN[self.mode]}"
        if every:
            raise ImageError(
                field, "full_mask", f"the mask selects the whole picture: to draw a new one, use /v1/generate ({told})"
            )
        raise ImageError(field, "empty_mask", f"the mask selects no pixels to redraw; {told}")


def select(image: Image.Image, mode: MaskMode, field: str) -> Selection:
    """white: bright pixels are drawn again; transparent pixels are not, whatever their colour. black: dark ones,
    likewise. alpha: transparent ones. nonzero: all but black and transparent ones. Soft masks are cut at THRESHOLD.
    """
    if mode == "alpha" and not image.has_transparency_data:
        raise ImageError(field, "no_alpha", 'mask_mode is "alpha", but this picture has no transparency')
    deep = image.mode.startswith("I") and mode != "alpha"
    pixels = np.empty((image.height, image.width), dtype=bool)
    lowest, highest, most = 65535, 0, 65535 if deep else 255
    for top, band in bands(image):
        values = _values(band, mode)
        pixels[top : top + band.height] = _selected(band, values, mode)
        seen = np.minimum(np.asarray(band), most) if deep else values
        lowest, highest = min(lowest, int(seen.min())), max(highest, int(seen.max()))
    return Selection(pixels, mode, lowest, highest, most)


def check_shape(mask: Structure, picture: tuple[int, int], field: str = "mask") -> None:
    """A mask must have the shape of the picture (height, width); its size may differ. A side may be off by the rounding
    to whole pixels. Raises ImageError."""
    (rows, cols), (height, width) = mask.size, picture
    if abs(rows - cols * height / width) < 1 or abs(cols - rows * width / height) < 1:
        return
    raise ImageError(
        field,
        "shape",
        f"the mask has {cols}×{rows} pixels, the picture {width}×{height}: another shape. A mask is resized to the "
        "picture if both have the same shape; crop it or draw it again",
    )


def _values(image: Image.Image, mode: MaskMode) -> np.ndarray:
    """uint8 (H, W): what the mode decides by."""
    if mode == "alpha":
        return alpha(image)
    opaque = rgb(image, ground=255 if mode == "black" else 0)
    return np.asarray(opaque).max(2) if mode == "nonzero" else np.asarray(opaque.convert("L"))


def _selected(image: Image.Image, values: np.ndarray, mode: MaskMode) -> np.ndarray:
    if mode == "nonzero":
        some = np.asarray(image) > 0 if image.mode.startswith("I") else values > 0
        return some & (alpha(image) >= THRESHOLD) if image.has_transparency_data else some
    bright: np.ndarray = values >= THRESHOLD
    return bright if mode == "white" else ~bright
