"""Settings of a machine on which all is well, and a hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import Hub, local_hub


@pytest.fixture(autouse=True)
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of a machine on which all is well."""
    for name in ("ARPG_REDIS_URL", "ARPG_DEVICE", "ARPG_MODELS", "ARPG_ALLOW_UNSAFE_REDIS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ARPG_DATA_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("PORT", "0")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with local_hub(tmp_path / "cache", monkeypatch) as server:
        yield server
