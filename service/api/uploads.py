"""The body of an inpainting request, JSON or multipart, down to pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio.to_thread
import numpy as np
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from service import images
from service.api.services import Services
from service.images import ImageError
from service.problems import Problem, from_validation
from service.schemas import InpaintFields, InpaintRequest

Fields = TypeVar("Fields", bound=BaseModel)
Result = TypeVar("Result")

PICTURES = ("image", "mask")
# Text fields of a form: there are some twenty, the largest an explicit order.
MAX_FIELDS = 40
MAX_TEXT = 2**19


@dataclass(frozen=True, slots=True)
class Upload:
    """fields as checked; image and mask as the client sent them: bytes of a file, or base64 text."""

    fields: InpaintFields
    image: bytes | str
    mask: bytes | str | None

    def digest(self) -> str:
        """Tells whether a repeated request is the same."""
        said = hashlib.sha256(self.fields.model_dump_json(exclude={"image", "mask"}).encode())
        for picture in (self.image, self.mask):
            said.update(b"\0" + (picture.encode() if isinstance(picture, str) else picture or b""))
        return said.hexdigest()


@dataclass(frozen=True, slots=True)
class Canvas:
    """A picture uint8 (H, W, 3) and what of it is repainted, bool (H, W), with both as PNG."""

    image: np.ndarray
    mask: np.ndarray
    image_png: bytes
    mask_png: bytes


async def read_upload(request: Request) -> Upload:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request)
    if kind == "application/json":
        fields = checked(InpaintRequest.model_validate_json, await request.body())
        return Upload(fields, fields.image, fields.mask)
    detail = "send multipart/form-data (curl -F image=@picture.png) or application/json (curl --json)"
    raise Problem(415, "unsupported_media_type", detail)


def checked(validate: Callable[[Any], Fields], data: Any) -> Fields:
    """A body that a route reads for itself, or the problem with it."""
    try:
        return validate(data)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False), place="body") from None


async def decode(upload: Upload, services: Services) -> Canvas:
    """Off the event loop, so many at a time. Raises Problem."""
    return await in_thread(services, _decode, upload, services)


async def in_thread(services: Services, work: Callable[..., Result], *arguments: Any) -> Result:
    """Pixel work, off the event loop; an unusable picture becomes a Problem."""
    try:
        return await anyio.to_thread.run_sync(work, *arguments, limiter=services.pixels)
    except ImageError as error:
        raise Problem.field(error.field, error.message, error.code, status=error.status) from None


async def _form(request: Request) -> Upload:
    async with request.form(max_files=2, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT) as form:
        texts: dict[str, Any] = {}
        files: dict[str, bytes] = {}
        for name, value in form.multi_items():
            if name in texts or name in files:
                raise Problem.field(name, "is there twice", "repeated")
            if isinstance(value, UploadFile):
                if name not in PICTURES:
                    raise Problem.field(name, "is not a file; the files are image and mask", "unexpected_file")
                files[name] = await value.read()
            elif name in PICTURES:
                raise Problem.field(name, f"send a file, as in curl -F {name}=@{name}.png", "file_needed")
            elif value != "":  # a browser sends what was left blank
                texts[name] = _value(name, value)
    fields = checked(InpaintFields.model_validate, texts)
    if "image" not in files:
        raise Problem.field("image", "is needed: PNG, JPEG or WebP", "missing")
    return Upload(fields, files["image"], files.get("mask"))


def _value(name: str, text: str) -> Any:
    """A form knows only text: numbers are read as JSON has them, order as numbers with commas."""
    if name in ("model", "class"):
        return text
    if name == "order" and not text.startswith("["):
        text = f"[{text}]"
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # the latter from brackets in brackets, thousands deep
        return text


def _decode(upload: Upload, services: Services) -> Canvas:
    limits, mode = services.limits, upload.fields.mask_mode
    data = _bytes(upload.image, "image")
    image = images.decode_image(data, "image", limits)
    if upload.mask is not None:
        mask = images.decode_mask(_bytes(upload.mask, "mask"), "mask", mode, limits)
    elif mode == "alpha":
        mask = images.decode_mask(data, "image", mode, limits)
    else:
        raise ImageError("mask", "missing", "is needed, unless mask_mode is alpha and the picture is transparent")
    images.check_mask(mask, image)
    return Canvas(image, mask, images.encode(image, "png", level=1), images.encode(mask, "png"))


def _bytes(picture: bytes | str, field: str) -> bytes:
    return images.from_base64(picture, field) if isinstance(picture, str) else picture
