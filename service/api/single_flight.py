"""Work that is done once for all who ask while it is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from service.queue import cancelled

T = TypeVar("T")


class SingleFlight(Generic[T]):
    def __init__(self) -> None:
        self._work: asyncio.Future[T] | None = None

    async def result(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Of the work under way; where there is none, it begins. It goes on when who began it goes away."""
        if self._work is None or self._work.done():
            self._work = asyncio.ensure_future(begin())
        return await asyncio.shield(self._work)

    async def close(self) -> None:
        if self._work is not None:
            await cancelled(self._work)
