"""A Redis that closes idle connections keeps no replica from being ready."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from service.server.embedded import EmbeddedServer
from service.settings import Settings
from tests.support.api import running_api
from tests.support.keys import Keyed, new_key


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """On TCP: redis-py treats idle connections to a Unix socket otherwise."""
    with EmbeddedServer(tmp_path_factory.mktemp("valkey"), tcp=True) as url:
        yield url


@pytest.fixture(scope="module")
def keyed_server(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    path = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    texts = {"ann": new_key(path, "ann", rate=10_000)}
    with running_api(Settings(redis_url=server, keys_file=path, _env_file=None), texts["ann"]) as api:
        api.show_card()
        yield Keyed(api, path, texts)


@pytest.fixture
def admin(server: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server) as client:
        yield client


def test_connections_that_redis_closed_while_idle_do_not_make_a_replica_unready(
    keyed_server: Keyed, admin: redis.Redis
) -> None:
    client = keyed_server.api.client
    for _ in range(6):
        assert client.get("/readyz").status_code == 200
        assert client.get("/v1/models").status_code == 200
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
