"""Waiting for what another process or thread will do."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

PATIENCE = 120.0  # seconds, for a slow machine: how fast it is is not what these tests promise


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


async def soon(condition: Callable[[], Any | Awaitable[Any]], seconds: float = PATIENCE) -> Any:
    """What the condition, awaited where it has to be, says as soon as that is true; or what it says in the end."""
    deadline = time.monotonic() + seconds
    while True:
        said = condition()
        if inspect.isawaitable(said):
            said = await said
        if said or time.monotonic() > deadline:
            return said
        await asyncio.sleep(0.01)
