"""Uploads → safe RGB arrays and masks; arrays → PNG, JPEG or WebP.

Nothing here trusts a file's name, its declared type or its header. What Pillow raises becomes an ImageError.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

T = TypeVar("T")

Format = Literal["png", "jpeg", "webp"]
MaskMode = Literal["white", "black", "alpha"]

MEDIA_TYPES: dict[Format, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

THRESHOLD = 128
"""Soft masks are cut here: a luminance of 128 … 255 is white, an alpha of 0 … 127 is transparent."""

_SNIFFED = ("PNG", "JPEG", "WEBP")
_DATA_URL = re.compile(r"data:image/(?:png|jpe?g|webp);base64,", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r\n]+")


class ImageError(ValueError):
    """An upload that can't be used. `field` is the culprit, `code` is for programs, `status` for HTTP."""

    def __init__(self, field: str, code: str, message: str, *, status: int = 422) -> None:
        super().__init__(message)
        self.field = field
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    max_pixels: int
    max_side: int


def from_base64(text: str, field: str) -> bytes:
    """The bytes of a base64 text, with or without a `data:image/…;base64,` prefix and line breaks."""
    if text.startswith("data:"):
        prefix = _DATA_URL.match(text)
        if prefix is None:
            raise ImageError(field, "data_url", "a data URL must start with data:image/png;base64, (or jpeg, webp)")
        text = text[prefix.end() :]
    elif text.startswith(("http://", "https://")):
        raise ImageError(field, "base64", "URLs are not fetched; send the picture itself, as base64 or as a file")
    try:
        return base64.b64decode(_SPACE.sub("", text), validate=True)
    except (binascii.Error, ValueError):
        raise ImageError(field, "base64", "this is not base64") from None


def decode_image(data: bytes, field: str, limits: Limits) -> np.ndarray:
    """uint8 (H, W, 3), upright. Transparent parts are laid on white."""
    return decode(data, field, limits, rgb)


def decode_mask(data: bytes, field: str, mode: MaskMode, limits: Limits) -> np.ndarray:
    """bool (H, W), upright: True where the picture is to be drawn again. See mask_reader."""
    return decode(data, field, limits, mask_reader(field, mode))


def mask_reader(field: str, mode: MaskMode) -> Callable[[Image.Image], np.ndarray]:
    """Reads a mask bool (H, W) from an open picture.

    white: bright pixels are drawn again; transparent pixels are not, whatever their colour. black: dark ones, likewise.
    alpha: transparent ones. Soft masks are cut at THRESHOLD.
    """

    def repaint(image: Image.Image) -> np.ndarray:
        if mode == "alpha":
            if not image.has_transparency_data:
                raise ImageError(field, "no_alpha", 'mask_mode is "alpha", but this picture has no transparency')
            return _alpha(image) < THRESHOLD
        opposite = 0 if mode == "white" else 255
        bright: np.ndarray = np.asarray(Image.fromarray(rgb(image, ground=opposite)).convert("L")) >= THRESHOLD
        return bright if mode == "white" else ~bright

    return repaint


def check_mask(mask: np.ndarray, size: tuple[int, int], field: str = "mask") -> None:
    """A mask bool (H, W) must have the picture's size (height, width) and leave something to draw and something to
    keep."""
    if mask.shape != size:
        (height, width), (rows, cols) = size, mask.shape
        raise ImageError(
            field,
            "size",
            f"the mask has {cols}×{rows} pixels, the picture {width}×{height}; they must be the same",
        )
    if not mask.any():
        raise ImageError(field, "empty_mask", "the mask selects nothing to repaint; see mask_mode")
    if mask.all():
        raise ImageError(field, "full_mask", "the mask selects the whole picture: to draw a new one, use /v1/generate")


def encode(
    image: np.ndarray, format: Format, quality: int = 90, *, level: int = 6, text: Mapping[str, str] | None = None
) -> bytes:
    """A picture uint8 (H, W, 3) or a mask bool (H, W) as a file. level: PNG's effort, 0 … 9. text: chunks by keyword,
    for a PNG; the other formats have no place for them."""
    file = io.BytesIO()
    picture = Image.fromarray(image)
    if format == "png":
        chunks = PngInfo()
        for keyword, value in (text or {}).items():
            chunks.add_text(keyword, value)
        picture.save(file, "PNG", compress_level=level, pnginfo=chunks)
    elif format == "jpeg":
        picture.save(file, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2, optimize=True)
    else:
        picture.save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()


def transcode(png: bytes, format: Format, quality: int) -> bytes:
    """Our own stored PNG in another format."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        return encode(np.asarray(picture.convert("RGB")), format, quality)


def decode(data: bytes, field: str, limits: Limits, read: Callable[[Image.Image], T]) -> T:
    """What `read` makes of the picture, opened once, within the limits and upright. Raises ImageError."""
    if not data:
        raise ImageError(field, "empty", "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_SNIFFED) as image:
            _check_header(image, field, limits)
            image.load()
            return read(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(
            field, "not_an_image", "this is not a PNG, JPEG or WebP picture (or a damaged one)", status=415
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(field, limits) from None
    except Exception as error:  # Pillow raises nearly everything: OSError, ValueError, SyntaxError, struct.error …
        raise ImageError(field, "damaged", f"the picture can't be decoded ({type(error).__name__})") from None


def _check_header(image: Image.Image, field: str, limits: Limits) -> None:
    """Before a single pixel is decoded. Pillow has refused the largest already, and only warned of some others."""
    width, height = image.size
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise _too_large(field, limits)
    # A JPEG with several pictures (MPO, from phones) has its main one first; animations have no main one.
    if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        raise ImageError(field, "animated", "animated pictures are not taken; send a single frame")


def _too_large(field: str, limits: Limits) -> ImageError:
    bounds = f"at most {limits.max_pixels:,} pixels, and {limits.max_side:,} a side"
    return ImageError(field, "too_many_pixels", f"the picture is too large: {bounds}", status=413)


def rgb(image: Image.Image, ground: int = 255) -> np.ndarray:
    """uint8 (H, W, 3); transparent parts are laid on this level of grey."""
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion would clip, not scale
        grey = np.asarray(image).astype(np.uint32)
        eight = ((np.minimum(grey, 65535) * 255 + 32767) // 65535).astype(np.uint8)
        eight = np.where(_alpha(image) == 0, np.uint8(ground), eight)
        return np.repeat(eight[..., None], 3, axis=2)
    if image.has_transparency_data:
        over = image.convert("RGBA")
        under = Image.new("RGBA", over.size, (ground, ground, ground, 255))
        return np.asarray(Image.alpha_composite(under, over).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _alpha(image: Image.Image) -> np.ndarray:
    """uint8 (H, W): 0 is transparent."""
    if image.mode.startswith("I"):  # one level of grey may stand for transparency; Pillow's conversion forgets it
        return np.where(np.asarray(image) == image.info.get("transparency", -1), np.uint8(0), np.uint8(255))
    return np.asarray(image.convert("RGBA"))[..., 3]
