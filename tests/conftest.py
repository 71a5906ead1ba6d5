"""Shared fixtures: a real Valkey (or Redis) server for everything that speaks to one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings

from tests.support.processes import REPOSITORY, die_with_parent, server_binary

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from tests.support.api import Api
    from tests.support.keys import Keyed

os.environ.setdefault("OMP_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" not in os.environ:
    # Not the user's cache. The processes of a run inherit it, because to compile the functions takes ten seconds.
    CACHE = tempfile.TemporaryDirectory(prefix="arpg-cache-")
    os.environ["XDG_CACHE_HOME"] = CACHE.name

COMPILING: list[subprocess.Popen[bytes]] = []


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the functions for CPUs once, before all processes of a run begin to."""
    if config.getoption("numprocesses", None) and "PYTEST_XDIST_WORKER" not in os.environ:
        command = [sys.executable, "-c", "from engine.ops import launch"]
        COMPILING.append(subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished() -> None:
    for process in COMPILING:
        process.wait()


# How long an example takes says more about the machine's other work than about the code.
hypothesis_settings.register_profile("unhurried", deadline=None)
hypothesis_settings.load_profile("unhurried")

LONGEST_FIRST = (
    "docs/test_blocks.py", "e2e/test_serve.py", "cli/test_samples.py", "engine/gpu/test_interpreted.py",
    "chaos/test_smoke.py", "e2e/test_rolling_update.py",
    "engine/core/test_batch_invariance.py", "engine/test_hub.py", "abuse/test_attacks.py",
    "evaluation/test_evaluation.py", "bench/test_serve.py", "e2e/test_playground.py", "e2e/test_playground_editing.py",
    "worker/test_engine_failures.py", "worker/test_faults.py", "worker/test_fork.py",
    "engine/families/test_families.py",
)  # fmt: skip
"""Files of tests that take longest. They start first, so that no process is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {REPOSITORY / "tests" / name: index for index, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


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


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of the server, every key gone."""
    from service.jobs import connect

    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture(scope="module")
def module_api(redis_socket: Path, request: pytest.FixtureRequest) -> Iterator[Api]:
    """A real server for the tests of one module, in a namespace of its own, with a card shown."""
    from service.settings import Settings
    from tests.support.api import running_api

    namespace = "-".join(request.module.__name__.split(".")[1:])
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


@pytest.fixture(scope="module")
def keyed_server(redis_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A server that needs API keys, with three of them."""
    from service.settings import Settings
    from tests.support.api import running_api
    from tests.support.keys import Keyed, new_key

    path = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    texts = {
        "ann": new_key(path, "ann", priority="high", weight=2.0, quota=7),
        "bob": new_key(path, "bob"),
        "ops": new_key(path, "ops", scopes=("metrics",)),
    }
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="keyed", keys_file=path, _env_file=None)
    with running_api(settings, texts["ann"]) as api:
        api.show_card()
        yield Keyed(api, path, texts)


@pytest.fixture
def keyed(keyed_server: Keyed) -> Iterator[Keyed]:
    """The module's server. A job that a failed test left behind does not trouble the next one."""
    yield keyed_server
    keyed_server.api.empty()
