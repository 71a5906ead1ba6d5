"""The Lua verbs: how they are loaded, and how values are converted for Redis and back."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

WHEN_FULL = "#!lua flags=allow-oom\n"


def load_script(redis: Redis, name: str, *, when_full: bool = False) -> AsyncScript:
    """when_full: the verb also runs while the server is at its maxmemory. For verbs that free memory, end jobs or keep
    the running ones alive; not for those that take new work or store pictures."""
    folder = files("service.jobs.lua")
    parts = [folder.joinpath(f"{part}.lua").read_text() for part in ("common", "endings", name)]
    return redis.register_script((WHEN_FULL if when_full else "") + "".join(parts))


def dump(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
