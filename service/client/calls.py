"""Requests as data, the same for both clients."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from service.client.jobs import Job

if TYPE_CHECKING:
    File = bytes | str | os.PathLike[str] | IO[bytes]
else:
    File = bytes | str | os.PathLike | IO
"""A picture: the content of a PNG, JPEG or WebP file, its path, or the open file."""

HEADERS = {
    "idempotency_key": "Idempotency-Key",
    "start_timeout": "X-Start-Timeout",
    "webhook_url": "X-Webhook-URL",
}
"""The names of the options (fields.Options) in a request."""

TEXTS = frozenset({"model", "class", "prompt", "negative_prompt"})
"""The fields that a form sends as they are; others are sent as JSON."""

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""By the extension of a file."""

JobOrId = Job | str


@dataclass(frozen=True, slots=True)
class Source:
    """A picture that this server has drawn and still keeps, in place of an upload. image: which of the job's."""

    job: JobOrId
    image: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    method: str
    path: str
    json: Mapping[str, Any] | None = None
    texts: Mapping[str, str] | None = None
    files: Mapping[str, bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


def drawing(task: str, fields: Mapping[str, Any]) -> Call:
    """fields: of the request, and the options."""
    body, headers = _split(fields)
    return Call("POST", f"/v1/{task}", json=body, headers=headers)


def editing(task: str, image: File | Source, mask: File | None, fields: Mapping[str, Any]) -> Call:
    """Raises OSError if a file can't be read."""
    body, headers = _split(fields)
    if isinstance(image, Source):
        body["source"] = {"job": job_id(image.job), "image": image.image}
        if mask is not None:
            body["mask"] = base64.b64encode(_content(mask)).decode()
        return Call("POST", f"/v1/{task}", json=body, headers=headers)
    files = {"image": _content(image)} | ({} if mask is None else {"mask": _content(mask)})
    texts = {
        name: str(value) if name in TEXTS else json.dumps(value) for name, value in body.items() if value is not None
    }
    return Call("POST", f"/v1/{task}", texts=texts, files=files, headers=headers)


def forking(job: JobOrId, fields: Mapping[str, Any]) -> Call:
    body, headers = _split(fields)
    return Call("POST", f"{job_path(job)}/fork", json=body, headers=headers)


def picture(job: JobOrId, index: int, format: str | None) -> Call:
    return Call("GET", f"{job_path(job)}/images/{index}", query={} if format is None else {"format": format})


def model_path(model: str, what: str) -> str:
    return f"/v1/models/{quote(model, safe='')}/{what}"


def job_path(job: JobOrId) -> str:
    return f"/v1/jobs/{quote(job_id(job), safe='')}"


def job_id(job: JobOrId) -> str:
    return job if isinstance(job, str) else job.id


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a path's extension names. Raises ValueError."""
    extension = Path(path).suffix.lower()
    if extension not in FORMATS:
        raise ValueError(f"{path}: the extension must be one of {', '.join(FORMATS)}")
    return FORMATS[extension]


def _split(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The body and the headers."""
    headers = {HEADERS[name]: str(value) for name, value in fields.items() if name in HEADERS and value is not None}
    headers.setdefault("Idempotency-Key", str(uuid.uuid4()))
    body = {name.removesuffix("_"): value for name, value in fields.items() if name not in HEADERS}
    if body.get("order") is not None:
        body["order"] = list(map(int, body["order"]))
    return body, headers


def _content(file: File) -> bytes:
    """Read once, so that a repeated request sends the same."""
    if isinstance(file, bytes):
        return file
    if isinstance(file, str | os.PathLike):
        return Path(file).read_bytes()
    return file.read()
