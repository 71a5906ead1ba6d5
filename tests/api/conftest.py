"""A server that needs API keys, for the tests of keys and sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import Settings
from tests.support.api import running_api
from tests.support.keys import Keyed, new_key


@pytest.fixture(scope="module")
def keyed_server(redis_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
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
