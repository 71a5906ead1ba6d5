"""Uploads → upright pictures; pictures → PNG, JPEG or WebP.

Nothing here trusts a file's name, its declared type or its header. What Pillow raises becomes an ImageError. Imports
no more than a decode process needs.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeVar

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from service.tasks.pictures.errors import ImageError, Limits
from service.tasks.pictures.structure import Structure, StructureError, inspect

T = TypeVar("T")

Format = Literal["png", "jpeg", "webp"]

MEDIA_TYPES: dict[Format, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

KEYWORD = "arpg"
"""Of the text chunk with a picture's recipe: the only one that is read."""

MAX_TEXT = 2**18
"""Characters of a recipe."""

BAND = 2**20
"""Pixels that are converted at a time: a picture is held twice, but no more."""

_SNIFFED = ("PNG", "JPEG", "WEBP")
_RLE = 3
"""zlib's strategy Z_RLE."""

_DATA_URL = re.compile(r"data:image/(?:png|jpe?g|webp);base64,", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r\n]+")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the orientation of EXIF."""


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


def examine(data: bytes, field: str, limits: Limits) -> Structure:
    """What a file says of itself, before a pixel is decoded. Raises ImageError where it is too large or too complex."""
    if not data:
        raise ImageError(field, "empty", "the file is empty")
    try:
        structure = inspect(data, KEYWORD)
    except StructureError as error:
        raise ImageError(field, error.code, error.message, status=error.status) from None
    for size in structure.sizes:
        limits.check(size, field)
    return structure


def decode(structure: Structure, field: str, limits: Limits, read: Callable[[Image.Image], T]) -> T:
    """What `read` makes of an examined picture, opened once and upright. Raises ImageError."""
    try:
        return read(_loaded(structure, field, limits))
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(
            field, "not_an_image", "this is not a PNG, JPEG or WebP picture (or a damaged one)", status=415
        ) from None
    except Image.DecompressionBombError:
        raise limits.exceeded(field) from None
    except MemoryError:
        message = "the picture needs too much memory; save it again as an ordinary PNG or JPEG, or scale it down"
        raise ImageError(field, "too_much_memory", message, status=413) from None
    except Exception as error:  # Pillow raises nearly everything: OSError, ValueError, SyntaxError, struct.error …
        message = f"the picture can't be decoded ({type(error).__name__}); save it again"
        raise ImageError(field, "damaged", message) from None


def _loaded(structure: Structure, field: str, limits: Limits) -> Image.Image:
    """Upright. The decoder, and the picture as it was stored, are gone."""
    with warnings.catch_warnings():  # Pillow warns of large pictures, whose size is checked here
        warnings.simplefilter("ignore")
        opened = Image.open(io.BytesIO(structure.file), formats=_SNIFFED)
    with opened:
        limits.check((opened.height, opened.width), field)
        if opened.format in ("PNG", "WEBP") and getattr(opened, "is_animated", False):
            raise ImageError(field, "animated", "animated pictures are not taken; send a single frame")
        opened.load()
        turn = _TURNS.get(structure.orientation)
        return opened if turn is None else opened.transpose(turn)


def decode_image(data: bytes, field: str, limits: Limits) -> np.ndarray:
    """uint8 (H, W, 3), upright. Transparent parts are laid on white. Colours are as stored, whatever the profile."""
    return decode(examine(data, field, limits), field, limits, lambda image: np.asarray(rgb(image)))


def text_in(picture: Image.Image) -> str | None:
    """The recipe that an open picture carries, unread."""
    text = picture.info.get(KEYWORD)
    return str(text) if isinstance(text, str) and len(text) <= MAX_TEXT else None


def rgb(image: Image.Image, ground: int = 255) -> Image.Image:
    """In RGB; transparent parts are laid on this level of grey. The picture itself if it is that already."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    result = Image.new("RGB", image.size)
    for top, band in bands(image):
        result.paste(_rgb(band, ground), (0, top))
    result.info = dict(image.info)
    return result


def bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """A picture in bands of BAND pixels or a few more, each with its first row."""
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _rgb(image: Image.Image, ground: int) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion would clip, not scale
        grey = np.asarray(image).astype(np.uint32)
        eight = ((np.minimum(grey, 65535) * 255 + 32767) // 65535).astype(np.uint8)
        return Image.fromarray(np.where(alpha(image) == 0, np.uint8(ground), eight)).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        under = Image.new("RGBA", over.size, (ground, ground, ground, 255))
        return Image.alpha_composite(under, over).convert("RGB")
    return image.convert("RGB")


def alpha(image: Image.Image) -> np.ndarray:
    """uint8 (H, W): 0 is transparent."""
    if image.mode.startswith("I"):  # one level of grey may stand for transparency; Pillow's conversion forgets it
        return np.where(np.asarray(image) == image.info.get("transparency", -1), np.uint8(0), np.uint8(255))
    return np.asarray(image.convert("RGBA").getchannel("A"))


def encode(
    image: np.ndarray | Image.Image,
    format: Format,
    quality: int = 90,
    *,
    level: int = 6,
    text: Mapping[str, str] | None = None,
    profile: bytes | None = None,
    quick: bool = False,
) -> bytes:
    """A picture uint8 (H, W, 3) or in RGB, or a mask bool (H, W), as a file. level: PNG's effort, 0 … 9. text: chunks
    by keyword, for a PNG; the other formats have no place for them. profile: ICC, of the picture's colours; None: sRGB.
    quick: PNG in the least time, for photos: no search for repetitions, of which they have none."""
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if format == "png":
        chunks = PngInfo()
        for keyword, value in (text or {}).items():
            chunks.add_text(keyword, value)
        if quick:
            picture.save(file, "PNG", compress_level=1, compress_type=_RLE, pnginfo=chunks, icc_profile=profile)
        else:
            picture.save(file, "PNG", compress_level=level, pnginfo=chunks, icc_profile=profile)
    elif format == "jpeg":
        subsampling = 0 if quality >= 90 else 2
        picture.save(file, "JPEG", quality=quality, subsampling=subsampling, optimize=True, icc_profile=profile)
    else:
        picture.save(file, "WEBP", quality=quality, method=4, icc_profile=profile)
    return file.getvalue()


def transcode(png: bytes, format: Format, quality: int) -> bytes:
    """Our own stored PNG in another format, with its colour profile."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        return encode(rgb(picture), format, quality, profile=picture.info.get("icc_profile"))
