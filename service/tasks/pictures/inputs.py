"""What a worker loads for a job: the stored pictures, and the canvas of fixed tokens. These functions block."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.editing.masks import fit, pixels_of
from engine.request import EMPTY
from service.jobs.spec import Box, InpaintCompose, JobSpec, OutpaintCompose, Size
from service.tasks.pictures.colours import to_srgb
from service.tasks.task import Inputs

if TYPE_CHECKING:
    from engine.codec.codec import Codec


class BadUpload(Exception):
    """A stored upload is missing or cannot be used."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def whole_picture(grid: Size) -> Box:
    """The picture covers the whole canvas."""
    return Box(row=0, col=0, rows=grid[0], cols=grid[1])


def tokens_on(tokens: np.ndarray | None, grid: Size) -> np.ndarray | None:
    """Known tokens, if they are those of this grid."""
    return tokens if tokens is not None and tokens.shape == grid else None


def open_inputs(blobs: Mapping[str, bytes | None], *, reused: bool = True) -> Inputs:
    """Stored PNGs by what they are. Raises BadUpload."""
    image, profile = _opened(blobs["image"], "RGB") if "image" in blobs else (None, None)
    mask, _ = _opened(blobs["mask"], "1") if "mask" in blobs else (None, None)
    if image is not None and mask is not None and mask.shape != image.shape[:2]:
        raise BadUpload("upload_damaged", "picture and mask differ in size")
    return Inputs(image, mask, profile, reused)


def empty_canvas(spec: JobSpec) -> np.ndarray:
    """int32 grid, nothing drawn yet."""
    return np.full(spec.grid, EMPTY, dtype=np.int32)


def load_canvas(spec: JobSpec, inputs: Inputs, codec: Codec) -> np.ndarray:
    """int32 grid: the picture's tokens where they are fixed, EMPTY elsewhere. Raises BadUpload."""
    encoded = codec.encode(fitted_image(spec, inputs, codec.stride)) if must_encode(spec) else None
    return canvas_with(spec, encoded)


def must_encode(spec: JobSpec) -> bool:
    """Whether the canvas needs tokens of the picture that nobody knows yet."""
    return spec.picture_box is not None and spec.picture_tokens is None


def fitted_image(spec: JobSpec, inputs: Inputs, stride: int) -> np.ndarray:
    """The picture uint8 (H, W, 3) in the size and the colours in which it is encoded; where the canvas goes on beyond
    it, it is continued. Raises BadUpload."""
    if inputs.image is None or spec.picture_box is None:
        raise BadUpload("upload_missing", "the uploaded picture is no longer stored")
    fitted = to_srgb(
        fit(inputs.image, (spec.picture_box.rows * stride, spec.picture_box.cols * stride)), inputs.profile
    )
    return spec.compose.geometry.continued(fitted) if isinstance(spec.compose, OutpaintCompose) else fitted


def canvas_with(spec: JobSpec, encoded: np.ndarray | None) -> np.ndarray:
    """As load_canvas. encoded: the tokens of `fitted_image`, if they `must_encode`."""
    canvas, box = empty_canvas(spec), spec.picture_box
    if box is None:
        return canvas
    tokens = spec.picture_tokens
    if tokens is None:
        assert encoded is not None
        tokens = spec.compose.geometry.own(encoded) if isinstance(spec.compose, OutpaintCompose) else encoded
    canvas[box.row : box.row + box.rows, box.col : box.col + box.cols] = tokens
    canvas[~spec.fixed_cells] = EMPTY
    return canvas


def fork_blobs(spec: JobSpec) -> dict[str, str]:
    """The blobs that a fork needs beside a finished picture: the mask, and the upload where a border is blended. All
    else of the upload is in the picture."""
    feathered = isinstance(spec.compose, InpaintCompose) and spec.compose.feather
    return {what: name for what, name in spec.blobs.items() if what == "mask" or feathered}


def _opened(png: bytes | None, mode: str) -> tuple[np.ndarray, bytes | None]:
    """The pixels, and the colour profile."""
    if png is None:
        raise BadUpload("upload_missing", "the uploaded picture or its mask is no longer stored")
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            own = picture if picture.mode == mode else picture.convert(mode)  # to convert is to copy
            return pixels_of(own) if mode == "RGB" else np.asarray(own), picture.info.get("icc_profile")
    except Exception as error:  # Pillow raises nearly everything
        raise BadUpload("upload_damaged", f"a stored upload cannot be read: {error}") from error
