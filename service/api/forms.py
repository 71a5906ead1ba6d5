"""A form (multipart/form-data), down to its texts and files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service.api.problems import gone, shortened, too_large
from service.errors import Problem

MAX_FIELDS = 40
"""There are some twenty text fields."""

AS_TEXT = frozenset({"model", "class", "prompt", "negative_prompt"})
"""Fields that are no numbers, whatever they look like."""

_PYTHON = {"True": "true", "False": "false", "None": "null"}
"""As Python's clients write the values of a form, generated ones among them."""

PIECE_BYTES = 2**15
"""The parser is Python: a piece of nothing but broken boundaries takes 10 ms, then other requests have their turn."""


async def read_form(
    request: Request, file_names: Sequence[str], max_text: int, *, max_files: int | None = None
) -> tuple[dict[str, str], dict[str, bytes]]:
    """Texts and files by field; fields that were left blank are not among them. max_text: bytes of all texts together.
    max_files: where a file too many is to be told by its field; else there may be one of each name.

    Raises Problem.
    """
    form = await _parse(request, max_files or len(file_names), max_text)
    try:
        texts: dict[str, str] = {}
        files: dict[str, bytes] = {}
        for name, value in form.multi_items():
            shown = shortened(name)
            if name in texts or name in files:
                raise Problem.field(shown, "is there twice", "repeated")
            if isinstance(value, UploadFile):
                if name not in file_names:
                    message = f"is not a file; what may be one: {' and '.join(file_names)}"
                    raise Problem.field(shown, message, "unexpected_file")
                files[name] = await value.read()
            elif name in file_names:
                raise Problem.field(name, f"send a file, as in curl -F {name}=@{name}.png", "file_needed")
            elif value != "":  # a browser sends what was left blank
                texts[name] = value
        return texts, files
    finally:
        await form.close()


def typed(name: str, text: str) -> Any:
    """A form knows only text: numbers are read as JSON has them, order as numbers with commas."""
    if name in AS_TEXT:
        return text
    if name == "order" and not text.startswith("["):
        text = f"[{text}]"
    text = _PYTHON.get(text, text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # the latter from brackets in brackets, thousands deep
        return text


async def _parse(request: Request, max_files: int, max_text: int) -> FormData:
    parser = _Parser(request.headers, _pieces(request), max_files, max_text)
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise Problem(400, "bad_request", f"the form can't be read: {error.message}") from None
    except ClientDisconnect:
        raise gone() from None


async def _pieces(request: Request) -> AsyncGenerator[bytes, None]:
    async for chunk in request.stream():
        for start in range(0, len(chunk), PIECE_BYTES):
            yield chunk[start : start + PIECE_BYTES]
            await asyncio.sleep(0)


class _Parser(MultiPartParser):
    """Starlette's parser, with a limit for all texts together, and without its fallback to Latin-1."""

    def __init__(self, headers: Headers, pieces: AsyncGenerator[bytes, None], max_files: int, max_text: int) -> None:
        super().__init__(headers, pieces, max_files=max_files, max_fields=MAX_FIELDS, max_part_size=max_text)
        self._text = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self._text += end - start
            if self._text > self.max_part_size:
                raise too_large(self.max_part_size, "the texts of a form")
        super().on_part_data(data, start, end)

    def on_headers_finished(self) -> None:
        _check_utf8(self._current_part.content_disposition or b"", "the name of a field")
        super().on_headers_finished()

    def on_part_end(self) -> None:
        _check_utf8(self._current_part.data, self._current_part.field_name)
        super().on_part_end()


def _check_utf8(data: bytes | bytearray, what: str) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        raise Problem(400, "bad_request", f"{shortened(what)} is not UTF-8") from None
