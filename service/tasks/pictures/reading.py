"""From the bytes of an upload to what is kept of it: a pure function, and all that a decode process does.

Imports no torch, no pydantic and no Redis: a decode process starts in a quarter of a second and has 30 MB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from engine.editing.masks import fixed_cells
from service.tasks.pictures import colours, masks
from service.tasks.pictures.errors import ImageError, Limits
from service.tasks.pictures.images import bands, decode, encode, examine, from_base64, rgb, text_in
from service.tasks.pictures.masks import MaskMode, Selection

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What a client sent. image, mask: the bytes of a file, or its base64 text. size: of the stored picture (height,
    width) that the mask is for, where there is no image. mask_mode: None: the task takes no mask. grid: rows and
    columns of the picture's tokens."""

    image: bytes | str | None = None
    size: Size | None = None
    mask: bytes | str | None = None
    mask_mode: MaskMode | None = None
    grid: Size
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """size: height and width. fixed_cells: bool (rows, cols), False where the mask touches a token; None: the task
    takes no mask. blobs: the PNGs to store, by what they are. recipe: the text of the picture's chunk, unread. digest:
    of its pixels, where there is a recipe."""

    size: Size
    fixed_cells: np.ndarray | None = None
    blobs: dict[str, bytes]
    recipe: str | None = None
    digest: str | None = None


def read_upload(upload: Upload, begin: Callable[[str], None] = lambda field: None) -> Reading:
    """Opens picture and mask once each, and codes each once as a PNG. The mask comes first: a wrong one is refused
    before the picture is decoded. begin: called with a field before its pixels are decoded, and again before they are
    coded. Raises ImageError."""
    limits, mode = upload.limits, upload.mask_mode
    image = None if upload.image is None else examine(_bytes(upload.image, "image"), "image", limits)
    size = upload.size if image is None else image.size
    assert size is not None
    selection = None
    if mode is not None and upload.mask is not None:
        mask = examine(_bytes(upload.mask, "mask"), "mask", limits)
        masks.check_shape(mask, size)
        begin("mask")
        selection = decode(mask, "mask", limits, lambda opened: _checked(masks.select(opened, mode, "mask"), size))
    elif mode is not None and (image is None or mode != "alpha"):
        raise ImageError("mask", "missing", "is needed, unless mask_mode is alpha and the picture is transparent")
    cells = None
    blobs: dict[str, bytes] = {}
    recipe = digest = None
    if image is not None:
        begin("image")
        own_mask = mode is not None and selection is None

        def read(opened: Image.Image) -> tuple[Selection | None, bytes, str | None, str | None]:
            own = _checked(masks.select(opened, "alpha", "image"), size) if own_mask else selection
            begin("image")
            return own, *_stored(opened)

        selection, blobs["image"], recipe, digest = decode(image, "image", limits, read)
    if selection is not None:
        cells = fixed_cells(selection.pixels, upload.grid)
        blobs["mask"] = encode(selection.pixels, "png")
    return Reading(size=size, fixed_cells=cells, blobs=blobs, recipe=recipe, digest=digest)


def _checked(selection: Selection, size: Size) -> Selection:
    fitted = selection.resized(size)
    fitted.check("mask")
    return fitted


def _stored(opened: Image.Image) -> tuple[bytes, str | None, str | None]:
    """The PNG of a picture, the text of its recipe, and with it the digest of its pixels."""
    recipe = text_in(opened)
    picture = rgb(colours.without_foreign_profile(opened))
    profile = colours.profile_of(opened)
    return encode(picture, "png", quick=True, profile=profile), recipe, digest_of(picture) if recipe else None


def digest_of(picture: Image.Image) -> str:
    """Of a picture in RGB: its size and every pixel, as recipe.digest."""
    digest = hashlib.sha256(repr((picture.height, picture.width, 3)).encode())
    for _, band in bands(picture):
        digest.update(band.tobytes())
    return digest.hexdigest()


def _bytes(picture: bytes | str, field: str) -> bytes:
    return from_base64(picture, field) if isinstance(picture, str) else picture
