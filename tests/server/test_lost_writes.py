"""A Redis that comes back without its last writes: after a power loss, and as a replica that was promoted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server

import pytest
import redis

from service.server.embedded import is_responding
from service.settings import Settings
from tests.support.api import Api, running_api
from tests.support.processes import die_with_parent, server_binary
from tests.support.waiting import eventually


@contextmanager
def valkey(folder: Path, socket: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(exist_ok=True)
    common = ["--unixsocket", str(socket), "--dir", str(folder), "--save", "", "--maxmemory-policy", "noeviction"]
    process = subprocess.Popen(
        [server_binary(), *common, *options], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent
    )
    try:
        assert eventually(lambda: is_responding(f"unix://{socket}"))
        yield process
    finally:
        process.kill()
        process.wait(10)


def submit(api: Api, key: str) -> str:
    response = api.client.post("/v1/generate", json={"seed": 1}, headers={"Idempotency-Key": key})
    assert response.status_code == 202, response.text
    job_id: str = response.json()["id"]
    return job_id


def check_only_the_second_is_lost(api: Api, first: str, second: str) -> None:
    assert eventually(lambda: api.client.get(f"/v1/jobs/{first}").status_code == 200)
    assert api.client.get(f"/v1/jobs/{second}").status_code == 404
    assert submit(api, "first") == first
    repeated = submit(api, "second")
    assert api.client.get(f"/v1/jobs/{repeated}").json()["status"] == "queued"
    for job_id in (first, repeated):
        claim = api.claim()
        assert claim.id == job_id
        api.draw(claim)
        assert api.client.get(f"/v1/jobs/{job_id}").json()["status"] == "succeeded"


def test_a_power_loss_loses_only_what_fsync_had_not_written(tmp_path: Path) -> None:
    socket, appending = tmp_path / "s", ("--port", "0", "--appendonly", "yes")
    with running_api(Settings(redis_url=f"unix://{socket}", _env_file=None)) as api:
        with valkey(tmp_path / "data", socket, *appending) as server:
            api.show_card()
            first = submit(api, "first")
            (log,) = (tmp_path / "data" / "appendonlydir").glob("*.incr.aof")
            written = log.stat().st_size
            second = submit(api, "second")
            server.kill()
            server.wait(10)
        with log.open("r+b") as file:  # as if the last fsync had been before the second job
            assert written < log.stat().st_size
            file.truncate(written)
        socket.unlink()
        with valkey(tmp_path / "data", socket, *appending):
            check_only_the_second_is_lost(api, first, second)


def test_a_failover_loses_only_what_was_not_replicated(tmp_path: Path, unused_port: int) -> None:
    socket, standby = tmp_path / "s", tmp_path / "standby"
    following = ("--port", "0", "--replicaof", "127.0.0.1", str(unused_port))
    with (
        running_api(Settings(redis_url=f"unix://{socket}", _env_file=None)) as api,
        valkey(tmp_path / "a", socket, "--port", str(unused_port), "--repl-diskless-sync-delay", "0") as primary,
        valkey(tmp_path / "b", standby, *following),
        redis.Redis(unix_socket_path=str(socket)) as client,
        redis.Redis(unix_socket_path=str(standby)) as replica,
    ):
        api.show_card()
        first = submit(api, "first")
        client.set("after", "the first job")
        assert client.wait(1, 20_000) == 1, "the replica has not followed"
        replica.replicaof("NO", "ONE")
        second = submit(api, "second")
        primary.kill()
        primary.wait(10)
        standby.replace(socket)
        check_only_the_second_is_lost(api, first, second)


@pytest.fixture
def unused_port() -> int:
    with create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
