"""How many requests begin in one iteration of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette._utils import get_route_path  # the router's own idea of a path
from starlette.types import ASGIApp, Receive, Scope, Send

PER_ITERATION = 4
"""To begin a request takes about half a millisecond, as do its next steps."""

NOT_PACED = frozenset({"/healthz", "/readyz"})


class PacingMiddleware:
    """When hundreds of requests arrive at once, a few begin in each iteration of the event loop, in the order in which
    they came. Else one iteration would last as long as all of them take, and a health probe would wait as long."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._begun = 0  # in this iteration
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and get_route_path(scope) not in NOT_PACED:
            await self._wait()
        await self.app(scope, receive, send)

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._next_iteration)
        if self._begun < PER_ITERATION and not self._waiting:
            self._begun += 1
            return
        begins = loop.create_future()
        self._waiting.append(begins)
        await begins

    def _next_iteration(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < PER_ITERATION:
            begins = self._waiting.popleft()
            if not begins.done():  # else its request was cancelled
                begins.set_result(None)
                self._begun += 1
        self._scheduled = self._begun > 0
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._next_iteration)
