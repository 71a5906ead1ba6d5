"""The body of a request that starts from a picture, JSON or multipart, down to pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from service.api.problems import from_validation
from service.errors import Problem
from service.tasks.fields import Pictured, Source, TaskFields
from service.tasks.task import Task

Schema = TypeVar("Schema", bound=BaseModel)

# Text fields of a form: there are some twenty, the largest an explicit order.
MAX_FIELDS = 40
MAX_TEXT = 2**19


@dataclass(frozen=True, slots=True)
class Body:
    """fields as checked; image and mask as the client sent them: bytes of a file, or base64 text. A task that starts
    from a picture has an image or a source."""

    fields: Any
    image: bytes | str | None = None
    mask: bytes | str | None = None
    source: Source | None = None

    def digest(self) -> str:
        """Tells whether a repeated request is the same."""
        said = hashlib.sha256(self.fields.model_dump_json(exclude={"image", "mask"}).encode())
        for picture in (self.image, self.mask):
            said.update(b"\0" + (picture.encode() if isinstance(picture, str) else picture or b""))
        return said.hexdigest()


async def json_only(request: Request) -> None:
    if _content_type(request) != "application/json":
        detail = "send the body as application/json (curl --json '{\"class\": 3}')"
        raise Problem(415, "unsupported_media_type", detail)


async def read_body(request: Request, task: Task) -> Body:
    """The body of a task that starts from a picture. Raises Problem."""
    kind = _content_type(request)
    if kind == "multipart/form-data":
        return await _form(request, task.fields, task.files)
    if kind != "application/json":
        detail = "send multipart/form-data (curl -F image=@picture.png) or application/json (curl --json)"
        raise Problem(415, "unsupported_media_type", detail)
    given = checked(task.request.model_validate_json, await request.body())
    assert isinstance(given, Pictured)
    if given.image is None and given.source is None:
        raise Problem.field("image", "is needed: PNG, JPEG or WebP; or a source", "missing")
    if given.image is not None and given.source is not None:
        raise Problem.field("source", "send an image or a source, not both", "two_pictures")
    return Body(given, given.image, getattr(given, "mask", None), given.source)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def checked(validate: Callable[[Any], Schema], data: Any) -> Schema:
    """A body that a route reads for itself, or the problem with it."""
    try:
        return validate(data)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False), place="body") from None


async def _form(request: Request, schema: type[TaskFields], names: tuple[str, ...]) -> Body:
    async with request.form(max_files=len(names), max_fields=MAX_FIELDS, max_part_size=MAX_TEXT) as form:
        texts: dict[str, Any] = {}
        files: dict[str, bytes] = {}
        for name, value in form.multi_items():
            if name in texts or name in files:
                raise Problem.field(name, "is there twice", "repeated")
            if isinstance(value, UploadFile):
                if name not in names:
                    message = f"is not a file; what may be one: {' and '.join(names)}"
                    raise Problem.field(name, message, "unexpected_file")
                files[name] = await value.read()
            elif name in names:
                raise Problem.field(name, f"send a file, as in curl -F {name}=@{name}.png", "file_needed")
            elif value != "":  # a browser sends what was left blank
                texts[name] = _value(name, value)
    fields = checked(schema.model_validate, texts)
    if "image" not in files:
        raise Problem.field("image", "is needed: PNG, JPEG or WebP", "missing")
    return Body(fields, files["image"], files.get("mask"), None)


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
