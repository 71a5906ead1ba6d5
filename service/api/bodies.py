"""The body of a request: JSON or a form, read within limits, down to checked fields and the pictures as sent.

One rule on every route: a body is UTF-8 and is refused before it is parsed if it names another charset, if it has more
than its limit of bytes, or more values than any request needs. So neither parsing nor an error takes long; a large body
is parsed in a thread, one at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from service.api.forms import read_form, typed
from service.api.problems import MOST_ERRORS, from_validation, gone, too_large
from service.errors import Problem
from service.services import Services
from service.tasks.fields import Pictured, Source, TaskFields
from service.tasks.task import Task

Result = TypeVar("Result")
Schema = TypeVar("Schema", bound=BaseModel)

MAX_PLAIN_BYTES = 2**20
"""Of a body without pictures, and of all text of a form. The largest request is an explicit order of 450 kB."""

MAX_VALUES = 2**16 + 1000
"""An order may list 65,536 positions."""

INLINE_BYTES = 2**14
"""Up to so many bytes are parsed on the event loop."""

UTF8 = (b"utf-8", b"utf8")


@dataclass(frozen=True, slots=True)
class Body:
    """fields as checked; image and mask as the client sent them: bytes of a file, or base64 text. A task that starts
    from a picture has an image or a source. digest: tells whether a repeated request is the same."""

    fields: Any
    image: bytes | str | None
    mask: bytes | str | None
    source: Source | None
    digest: str

    @classmethod
    def of(
        cls,
        fields: BaseModel,
        image: bytes | str | None = None,
        mask: bytes | str | None = None,
        source: Source | None = None,
    ) -> Body:
        said = hashlib.sha256(fields.model_dump_json(exclude={"image", "mask"}).encode())
        for picture in (image, mask):
            said.update(b"\0")
            said.update(picture.encode() if isinstance(picture, str) else picture or b"")
        return cls(fields, image, mask, source, said.hexdigest())


def json_fields(schema: type[Schema]) -> Callable[[Request], Awaitable[Schema]]:
    """The FastAPI dependency of a route that takes only JSON. Raises Problem."""

    async def fields(request: Request) -> Schema:
        if _media_type(request) != "application/json":
            raise _unsupported("send the body as application/json (curl --json sends it so)")
        data = await _received(request, MAX_PLAIN_BYTES)
        return await _parsed(request, len(data), _checked_json, schema, data)

    return fields


def json_content(schema: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI description of such a body; `schema` must be among the document's components."""
    named = {name: {"value": value} for name, value in examples.items()}
    content = {"application/json": {"schema": reference(schema), "examples": named}}
    return {"requestBody": {"required": True, "content": content}}


def reference(schema: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema.__name__}"}


async def form_fields(
    request: Request,
    schema: type[Schema],
    file_names: Sequence[str],
    max_files: int,
    *,
    as_text: Collection[str],
) -> tuple[Schema, dict[str, bytes]]:
    """A form's checked fields, and its files. as_text: the fields that are no numbers, whatever they look like. Raises
    Problem."""
    if _media_type(request) != "multipart/form-data":
        raise _unsupported("send multipart/form-data (curl -F image=@picture.png)")
    texts, files = await read_form(request, file_names, MAX_PLAIN_BYTES, max_files=max_files)
    return await _parsed(request, sum(map(len, texts.values())), _checked_form, schema, texts, as_text), files


async def read_body(request: Request, task: Task) -> Body:
    """The body of a task that starts from a picture. Raises Problem."""
    kind = _media_type(request)
    if kind == "multipart/form-data":
        texts, files = await read_form(request, task.files, MAX_PLAIN_BYTES)
        size = sum(map(len, texts.values())) + sum(map(len, files.values()))
        return await _parsed(request, size, _from_form, task.fields, texts, files)
    if kind != "application/json":
        raise _unsupported("send multipart/form-data (curl -F image=@picture.png) or application/json (curl --json)")
    data = await _received(request, None)
    return await _parsed(request, len(data), _from_json, task.request, data)


def _media_type(request: Request) -> str:
    """In lower case. Raises Problem if the request names another charset than UTF-8.

    The form parser reads the header with the same function. It would decode with any codec of Python, and some take
    quadratic time.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    if parameters.get(b"charset", b"utf-8").lower() not in UTF8:
        raise _unsupported("Content-Type: a body may have no other charset than utf-8; leave charset out")
    return kind.decode("latin-1")


def _unsupported(detail: str) -> Problem:
    return Problem(415, "unsupported_media_type", detail)


async def _received(request: Request, limit: int | None) -> bytes:
    """The whole body. limit: in bytes; None: only the server's limit counts. Raises Problem."""
    length = request.headers.get("content-length", "")
    if limit is not None and length.isdecimal() and int(length) > limit:
        raise too_large(limit)
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if limit is not None and size > limit:
                raise too_large(limit)
            chunks.append(chunk)
    except ClientDisconnect:
        raise gone() from None
    return b"".join(chunks)


async def _parsed(request: Request, size: int, work: Callable[..., Result], *arguments: Any) -> Result:
    if size <= INLINE_BYTES:
        return work(*arguments)
    services: Services = request.state.services
    return await anyio.to_thread.run_sync(work, *arguments, limiter=services.parsing)


def _from_json(schema: type[TaskFields], data: bytes) -> Body:
    given = _checked_json(schema, data)
    assert isinstance(given, Pictured)
    if given.image is None and given.source is None:
        raise Problem.field("image", "is needed: PNG, JPEG or WebP; or a source", "missing")
    if given.image is not None and given.source is not None:
        raise Problem.field("source", "send an image or a source, not both", "two_pictures")
    return Body.of(given, given.image, getattr(given, "mask", None), given.source)


def _from_form(schema: type[TaskFields], texts: dict[str, str], files: dict[str, bytes]) -> Body:
    fields = _checked_form(schema, texts)
    if "image" not in files:
        raise Problem.field("image", "is needed: PNG, JPEG or WebP", "missing")
    return Body.of(fields, files["image"], files.get("mask"))


def _checked_form(schema: type[Schema], texts: dict[str, str], as_text: Collection[str] = ()) -> Schema:
    _check_values(sum(text.count(",") for text in texts.values()))
    try:
        return schema.model_validate(
            {name: text if name in as_text else typed(name, text) for name, text in texts.items()}
        )
    except ValidationError as error:
        raise _problem(error, schema) from None


def _checked_json(schema: type[Schema], data: bytes) -> Schema:
    _check_values(data.count(b","))
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        if b"\0" in data[:4] or data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
            detail = "the body is not UTF-8, or it begins with a byte order mark; send JSON in UTF-8 without the mark"
            raise Problem(400, "invalid_json", detail) from None
        count = error.error_count()
        # Pydantic lists all errors or none; 65,536 of them take 0.2 s, during which no other thread runs.
        few = _with_fewer_fields(schema, data) if count > 2 * MOST_ERRORS else error
        raise _problem(few, schema, count) from None


def _problem(error: ValidationError, schema: type[BaseModel], count: int | None = None) -> Problem:
    errors = error.errors(include_url=False, include_input=False)
    return from_validation(errors, place="body", count=count, schema=schema)


def _check_values(separators: int) -> None:
    """separators: commas. There is one between any two values of JSON, and none in base64."""
    if separators > MAX_VALUES:
        raise Problem(413, "too_large", f"the body has more than {MAX_VALUES} values; no request needs so many")


def _with_fewer_fields(schema: type[BaseModel], data: bytes) -> ValidationError:
    """The errors of the same body, less all unknown fields but the first ones."""
    known = {field.alias or name for model in (schema, Source) for name, field in model.model_fields.items()}
    try:
        schema.model_validate_json(to_json(_fewer(from_json(data), known), inf_nan_mode="constants"))
    except ValidationError as error:
        return error
    raise AssertionError("a body is not valid because it has fewer unknown fields")


def _fewer(value: Any, known: set[str]) -> Any:
    if not isinstance(value, dict):
        return value
    unknown = [name for name in value if name not in known][:MOST_ERRORS]
    return {name: _fewer(value[name], known) for name in (*(known & value.keys()), *unknown)}
