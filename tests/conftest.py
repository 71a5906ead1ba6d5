"""Shared fixtures: a real server, never an imitation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from service.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def redis_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedServer(tmp_path_factory.mktemp("valkey") / "data") as url:
        yield url


@pytest.fixture
def redis_url(redis_server_url: str) -> Iterator[str]:
    """An empty database on one real server for the whole run."""
    with redis.Redis.from_url(redis_server_url) as client:
        client.flushall()
        yield redis_server_url


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
