"""How many requests begin in one turn of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette._utils import get_route_path  # the router's own idea of a path
from starlette.types import ASGIApp, Receive, Scope, Send

A_TURN = 4
"""Requests that begin in one turn. To begin one takes about half a millisecond, as do its next steps."""

AT_ONCE = frozenset({"/healthz", "/readyz"})


class TurnsMiddleware:
    """When hundreds of requests arrive at once, a few begin in each turn of the event loop, in the order in which they
    came. Else one turn would last as long as all of them take, and a health probe would wait as long."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._begun = 0  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._awaits_next_turn = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and get_route_path(scope) not in AT_ONCE:
            await self._turn()
        await self.app(scope, receive, send)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._awaits_next_turn:
            self._awaits_next_turn = True
            loop.call_soon(self._next_turn)
        if self._begun < A_TURN and not self._waiting:
            self._begun += 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next_turn(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < A_TURN:
            turn = self._waiting.popleft()
            if not turn.done():  # else its request was cancelled
                turn.set_result(None)
                self._begun += 1
        self._awaits_next_turn = self._begun > 0
        if self._awaits_next_turn:
            asyncio.get_running_loop().call_soon(self._next_turn)
