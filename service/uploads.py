"""The stored pictures that a job starts from, by its payload: what front end and worker agree on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UPLOADS: dict[str, tuple[str, ...]] = {"inpaint": ("image", "mask"), "outpaint": ("image",), "vary": ("image",)}
"""What the tasks start from; the others start from nothing."""


def uploads_of(payload: Mapping[str, Any]) -> dict[str, str]:
    """Their names, by what they are."""
    return {what: payload[what] for what in UPLOADS.get(payload["task"], ())}


def needed_to_fork(payload: Mapping[str, Any]) -> dict[str, str]:
    """Those that a fork needs beside a finished picture: but for the mask, and a border that is blended, all that it
    takes of the upload is in the picture."""
    return {what: name for what, name in uploads_of(payload).items() if what == "mask" or payload.get("feather")}
