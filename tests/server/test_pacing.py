"""Requests that arrive together begin a few at a time, so that a health probe between them is answered soon."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from starlette.types import Receive, Scope, Send

from service.server.pacing import PER_ITERATION, PacingMiddleware

pytestmark = pytest.mark.anyio


class Begun:
    """An app that notes in which iteration of the event loop each request begins."""

    def __init__(self) -> None:
        self.iteration = 0
        self.paths: list[str] = []
        self.iterations: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])
        self.iterations[scope["path"]] = self.iteration


async def begin(app: PacingMiddleware, begun: Begun, paths: list[str], leave: int | None = None) -> None:
    async def receive() -> None: ...

    async def send(message: object) -> None: ...

    scopes = [{"type": "http", "path": path, "root_path": ""} for path in paths]
    tasks = [asyncio.create_task(app(scope, receive, send)) for scope in scopes]  # type: ignore[arg-type]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        begun.iteration += 1
        if leave is not None and begun.iteration == 2:
            tasks[leave].cancel()


async def test_few_requests_begin_in_an_iteration_and_in_their_order() -> None:
    begun = Begun()
    paths = [f"/v1/jobs/{i}" for i in range(10 * PER_ITERATION)]
    await begin(PacingMiddleware(begun), begun, paths)
    assert begun.paths == paths
    assert max(Counter(begun.iterations.values()).values()) == PER_ITERATION


async def test_a_health_probe_is_not_paced() -> None:
    begun = Begun()
    paths = [f"/v1/jobs/{i}" for i in range(10 * PER_ITERATION)]
    await begin(PacingMiddleware(begun), begun, [*paths, "/healthz", "/readyz"])
    assert begun.iterations["/healthz"] == begun.iterations["/readyz"] == 0


async def test_a_request_that_is_cancelled_keeps_nobody_waiting() -> None:
    begun = Begun()
    paths = [f"/v1/jobs/{i}" for i in range(5 * PER_ITERATION)]
    app = PacingMiddleware(begun)
    await begin(app, begun, paths, leave=4 * PER_ITERATION)
    assert begun.paths == [path for path in paths if path != f"/v1/jobs/{4 * PER_ITERATION}"]
    await begin(app, begun, ["/v1/jobs/later"])
    assert begun.paths[-1] == "/v1/jobs/later"
