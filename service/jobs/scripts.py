"""Loads the Lua verbs, and converts values for Redis and back."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript


def load_script(redis: Redis, name: str) -> AsyncScript:
    folder = files("service.jobs").joinpath("lua")
    parts = [folder.joinpath(f"{part}.lua").read_text() for part in ("common", "endings", name)]
    return redis.register_script("".join(parts))


def dump(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
