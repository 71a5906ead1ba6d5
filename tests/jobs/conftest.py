"""A queue and an event hub on the tests' server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from service.jobs import EventHub, Queue, connect
from tests.support.queue import CONFIG


@pytest.fixture
def queue(redis: Redis) -> Queue:
    return Queue(redis, CONFIG)


@pytest.fixture
async def blocking(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url, blocking=True)
    yield client
    await client.aclose()


@pytest.fixture
async def hub(blocking: Redis) -> AsyncIterator[EventHub]:
    hub = EventHub(blocking, CONFIG, buffer=100)
    await hub.start()
    yield hub
    await hub.close()
