"""A Redis that is down, full or closes connections: what can be read is read, and /readyz says what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from service import logs
from service.jobs.connection import ServerReport
from service.jobs.spec import SPEC_VERSION
from service.server import startup
from service.server.embedded import EmbeddedServer
from service.settings import Settings
from tests.support.api import noise, png, running_api
from tests.support.keys import Keyed, code, new_key
from tests.support.waiting import soon


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


@contextlib.contextmanager
def full(admin: redis.Redis) -> Iterator[None]:
    admin.config_set("maxmemory", 1)
    try:
        yield
    finally:
        admin.config_set("maxmemory", 0)


def test_a_full_redis_is_read_and_emptied_and_takes_nothing_new(keyed_server: Keyed, admin: redis.Redis) -> None:
    api, client = keyed_server.api, keyed_server.api.client
    done = keyed_server.finished("ann")
    running, waiting = api.generate(), api.generate()
    claim = api.claim()
    assert claim.id == running["id"]
    with full(admin):
        for path in ("/v1/models", f"/v1/jobs/{done['id']}", f"/v1/jobs/{done['id']}/images/0"):
            assert client.get(path).status_code == 200, path
        unready = client.get("/readyz")
        assert (unready.status_code, unready.json()["reasons"]) == (
            503, ["redis is at its maxmemory: it takes no new jobs and no pictures"],
        )  # fmt: skip
        refused = client.post("/v1/generate", json={})
        assert code(refused) == (503, "queue_full")
        assert int(refused.headers["retry-after"]) > 0
        upload = {"image": ("a.png", png(noise(32, 32)), "image/png")}
        assert code(client.post("/v1/vary", files=upload)) == (503, "storage_full")
        # What runs goes on, and its watchers hear of it; what ends frees memory.
        with client.stream("GET", f"/v1/jobs/{running['id']}/events") as stream:
            lines = stream.iter_lines()
            assert api.publish(claim, 1, "started", started(claim)) == "ok"
            assert any("started" in line for line in lines)
        assert "event: completed" in client.get(f"/v1/jobs/{done['id']}/events").text
        assert client.delete(f"/v1/jobs/{waiting['id']}").status_code == 200
        assert client.delete(f"/v1/jobs/{running['id']}").status_code in (200, 202)
        assert api.publish(claim, 2, None, {}) == "cancel"
        assert api.queue(lambda q, _, __: q.finish(claim.id, 1, 3, state="canceled", event="canceled", data={})) == "ok"
        card = {"worker": "hand-1", "models": [], "spec": SPEC_VERSION}
        api.queue(lambda _, cards, __: cards.put("hand-2", card))  # workers stay known
    assert client.get("/readyz").status_code == 200


def started(claim: Any) -> dict[str, Any]:
    return {"attempt": claim.attempt, "images": 1, "grid": [4, 4], "steps": 2, "known": 0}


@pytest.mark.anyio
async def test_a_redis_that_is_down_is_told_with_the_cure_once_and_then_ever_less_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0

    async def check(*_: object) -> ServerReport:
        nonlocal now
        now += 1
        if now < 100:
            raise redis.ConnectionError("Error 111")
        return ServerReport("valkey", "9", ())

    monkeypatch.setattr(startup, "check_server", check)
    monkeypatch.setattr(startup, "RETRY_SECONDS", 0)
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: now))
    caplog.set_level(logging.INFO)
    address, stop = "redis://ann:s3cret@127.0.0.1:1/0", asyncio.Event()
    settings = Settings(redis_url=address, _env_file=None)
    assert not await startup.check_redis(address, settings)
    waiting = asyncio.create_task(startup.wait_for_redis(address, settings, stop))
    assert await soon(lambda: "redis responds" in caplog.text)
    stop.set()
    await waiting
    first, *later, last = [record.message for record in caplog.records if record.name == startup.__name__]
    assert first.startswith("redis at redis://127.0.0.1:1/0 does not respond: Error 111; start it, or correct its addr")
    assert first.endswith("ARPG_REDIS_URL")
    assert later == ["redis still does not respond: Error 111"] * 7  # after 1, 3, 7, 15, 31, 61 and 91 s
    assert last == "redis responds after 99 s"
