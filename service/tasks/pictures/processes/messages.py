"""Messages between the API and a decode process: a head in JSON, and blobs.

A message is the length of the head in 8 bytes, the head, and the blobs, whose lengths the head tells. Pixels are never
sent, only files.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from service.tasks.pictures.errors import ImageError, Limits
from service.tasks.pictures.reading import Reading, Upload

PREFIX = 8

Message = tuple[dict[str, Any], list[bytes]]


def packed(head: dict[str, Any], blobs: list[bytes]) -> list[bytes]:
    """The parts to write, one after the other."""
    text = json.dumps(head | {"lengths": [len(blob) for blob in blobs]}).encode()
    return [len(text).to_bytes(PREFIX, "big"), text, *blobs]


def of_upload(upload: Upload) -> Message:
    head: dict[str, Any] = {
        "size": upload.size,
        "mask_mode": upload.mask_mode,
        "grid": upload.grid,
        "limits": asdict(upload.limits),
    }
    blobs = []
    for name in ("image", "mask"):
        sent = getattr(upload, name)
        head[name] = None if sent is None else "text" if isinstance(sent, str) else "file"
        if sent is not None:
            blobs.append(sent.encode("utf-8", "replace") if isinstance(sent, str) else sent)
    return head, blobs


def to_upload(head: dict[str, Any], blobs: list[bytes]) -> Upload:
    """Takes the blobs out of the list, so that each is held once."""
    sent: dict[str, bytes | str | None] = {}
    for name in ("image", "mask"):
        kind = head[name]
        sent[name] = None if kind is None else blobs.pop(0).decode() if kind == "text" else blobs.pop(0)
    return Upload(
        **sent,
        size=None if head["size"] is None else tuple(head["size"]),
        mask_mode=head["mask_mode"],
        grid=tuple(head["grid"]),
        limits=Limits(**head["limits"]),
    )


def of_reading(reading: Reading) -> Message:
    cells = None if reading.fixed_cells is None else reading.fixed_cells.tolist()
    head = {"size": reading.size, "cells": cells, "recipe": reading.recipe, "digest": reading.digest}
    return head | {"names": [*reading.blobs]}, [*reading.blobs.values()]


def to_reading(head: dict[str, Any], blobs: list[bytes]) -> Reading:
    return Reading(
        size=tuple(head["size"]),
        fixed_cells=None if head["cells"] is None else np.array(head["cells"], dtype=bool),
        blobs=dict(zip(head["names"], blobs, strict=True)),
        recipe=head["recipe"],
        digest=head["digest"],
    )


def of_error(error: ImageError) -> Message:
    return {"error": [error.field, error.code, error.message, error.status]}, []


def to_error(head: dict[str, Any]) -> ImageError:
    field, code, message, status = head["error"]
    return ImageError(field, code, message, status=status)
