"""A queue on the tests' server."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from service.jobs import Queue
from tests.support.queue import CONFIG


@pytest.fixture
def queue(redis: Redis) -> Queue:
    return Queue(redis, CONFIG)
