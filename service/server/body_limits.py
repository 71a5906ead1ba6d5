"""Bodies on their way: how fast each arrives, how long it may take, and how much memory all of them take."""

from __future__ import annotations

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Problem

RATE = 8192
"""Bytes a second that a body must bring, or it is among the first to make room."""

SLACK = 1.0
"""Seconds that a body may be behind this rate. It begins twice as far behind, so that it must bring 8 kB first."""

BODIES_HELD = 8
"""Bodies of the largest size that are held in memory at a time."""


class Progress:
    """due: the time at which a body of RATE would have brought what is there. A pause is not made up for by what came
    before it."""

    def __init__(self, arrived: int = 0) -> None:
        self.due = time.monotonic() - 2 * SLACK
        self.add(arrived)

    def add(self, arrived: int) -> None:
        """arrived: bytes."""
        self.due = min(time.monotonic(), self.due + arrived / RATE)

    @property
    def slow(self) -> bool:
        return time.monotonic() - self.due > SLACK


class _HeldBody:
    """waiting: while the app waits for the client."""

    def __init__(self) -> None:
        self.size = 0
        self.progress = Progress()
        self.waiting: asyncio.Timeout | None = None
        self.evicted = False


class BodyLimitsMiddleware:
    """Answers 408 if a body does not arrive in time, and 503 if there is no memory for it.

    Then slow bodies make room first. `release_body` in the request's state says that its body is no longer in memory;
    the end of the request says so too.
    """

    def __init__(self, app: ASGIApp, *, seconds: float, max_bytes: int, retry_after: int) -> None:
        self.app = app
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._retry_after = retry_after
        self._held: set[_HeldBody] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = time.monotonic() + self._seconds
        complete, held = False, _HeldBody()

        async def receive_in_time() -> Message:
            nonlocal complete
            if complete:  # what follows the body is the disconnect, which may come at any time
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()) as held.waiting:
                    message = await receive()
            except TimeoutError:
                detail = f"the body did not arrive within {self._seconds:g} s"
                if held.evicted:
                    detail = "the body arrived too slowly, and others needed its room"
                raise HTTPException(408, detail, {"Connection": "close"}) from None
            finally:
                held.waiting = None
            complete = not message.get("more_body", False)
            self._hold(held, len(message.get("body", b"")))
            return message

        scope["state"]["release_body"] = lambda: self._held.discard(held)
        try:
            await self.app(scope, receive_in_time, send)
        finally:
            self._held.discard(held)

    def _hold(self, held: _HeldBody, arrived: int) -> None:
        """Raises Problem."""
        if not arrived:
            return
        self._held.add(held)
        held.size += arrived
        held.progress.add(arrived)
        staying = [one for one in self._held if not one.evicted]
        excess = sum(one.size for one in staying) - self._max_bytes
        for one in sorted(staying, key=lambda one: one.progress.due) if excess > 0 else ():
            if one is held or one.waiting is None or not one.progress.slow:
                continue
            one.evicted = True
            one.waiting.reschedule(0)
            excess -= one.size
            if excess <= 0:
                break
        if excess > 0:
            self._held.discard(held)
            detail = "this server is receiving too many large bodies at once; send the request again"
            raise Problem(503, "too_many_uploads", detail, headers={"Retry-After": str(self._retry_after)})
