"""Both clients, called the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from service.client import AsyncClient, Client

Open = Callable[..., Any]


class Blocking:
    """An AsyncClient as a Client: an event loop in a thread runs each of its methods."""

    def __init__(self, client: AsyncClient, portal: BlockingPortal) -> None:
        self._client, self._portal = client, portal

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **fields: self._portal.call(lambda: method(*arguments, **fields))

    def events(self, *arguments: Any, **fields: Any) -> Iterator[Any]:
        events = self._client.events(*arguments, **fields)
        try:
            while True:
                try:
                    yield self._portal.call(events.__anext__)
                except StopAsyncIteration:
                    return
        finally:
            self._portal.call(events.aclose)


async def opened(*arguments: Any, **options: Any) -> AsyncClient:
    return AsyncClient(*arguments, **options)


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens clients of one kind."""
    with ExitStack() as stack:
        if request.param == "sync":
            yield lambda url, **options: stack.enter_context(Client(url, **options))
            return
        portal = stack.enter_context(start_blocking_portal())

        def open_async(url: str, **options: Any) -> Blocking:
            client = portal.call(lambda: opened(url, **options))
            stack.callback(portal.call, client.aclose)
            return Blocking(client, portal)

        yield open_async


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated request is sent without a pause."""
    monkeypatch.setattr("service.client.retries.FIRST_PAUSE", 0.0)
