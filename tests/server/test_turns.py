"""Requests that arrive together begin a few at a time, so that a health probe between them is answered soon."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from starlette.types import Receive, Scope, Send

from service.server.turns import A_TURN, TurnsMiddleware

pytestmark = pytest.mark.anyio


class Begun:
    """An app that notes in which turn of the event loop each request begins."""

    def __init__(self) -> None:
        self.turn = 0
        self.paths: list[str] = []
        self.turns: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        self.turns[scope["path"]] = self.turn


async def begin(app: TurnsMiddleware, begun: Begun, paths: list[str], leave: int | None = None) -> None:
    async def receive() -> None: ...

    async def send(message: object) -> None: ...

    scopes = [{"type": "http", "path": path, "root_path": ""} for path in paths]
    tasks = [asyncio.create_task(app(scope, receive, send)) for scope in scopes]  # type: ignore[arg-type]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        begun.turn += 1
        if leave is not None and begun.turn == 2:
            tasks[leave].cancel()


async def test_few_requests_begin_in_a_turn_and_in_their_order() -> None:
    begun = Begun()
    paths = [f"/v1/jobs/{i}" for i in range(10 * A_TURN)]
    await begin(TurnsMiddleware(begun), begun, paths)
    assert begun.paths == paths
    assert max(Counter(begun.turns.values()).values()) == A_TURN


async def test_a_health_probe_waits_for_no_turn() -> None:
    begun = Begun()
    paths = [f"/v1/jobs/{i}" for i in range(10 * A_TURN)]
    await begin(TurnsMiddleware(begun), begun, [*paths, "/healthz", "/readyz"])
    assert begun.turns["/healthz"] == begun.turns["/readyz"] == 0


async def test_a_request_that_is_cancelled_keeps_nobody_waiting() -> None:
    begun = Begun()
    paths = [f"/v1/jobs/{i}" for i in range(5 * A_TURN)]
    app = TurnsMiddleware(begun)
    await begin(app, begun, paths, leave=4 * A_TURN)
    assert begun.paths == [path for path in paths if path != f"/v1/jobs/{4 * A_TURN}"]
    await begin(app, begun, ["/v1/jobs/later"])
    assert begun.paths[-1] == "/v1/jobs/later"
