"""A worker between a real Valkey and a real engine with a tiny model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.core.engine import Engine, EngineConfig
from tests.support.tiny import random_folder
from tests.support.waiting import PATIENCE
from tests.support.worker import Service, serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(folder: Path) -> Engine:
    # Room for three pictures with guidance; what each one draws does not depend on the crowd.
    config = EngineConfig(cache_tokens=3 * 2 * 64, page_size=16, check_every_step=True, batch_invariant=True)
    return Engine.load(folder, device="cpu", config=config)


@pytest.fixture
def slowly(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of at least 20 ms: there is time to interrupt."""
    run = engine._runner.run

    def slow(drawings: Any) -> Any:
        time.sleep(0.02)
        return run(drawings)

    monkeypatch.setattr(engine._runner, "run", slow)


@pytest.fixture
async def service(redis_url: str, engine: Engine) -> AsyncIterator[Service]:
    async with serving(redis_url, engine, grace=10) as service:
        yield service
        service.stop.set()
        await asyncio.wait_for(service.running, PATIENCE)
        engine.check_integrity()
        assert engine.stats().pages_used == 0


@pytest.fixture
def team() -> Iterator[None]:
    """Torch's threads, six of them, until the test is over."""
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield
    torch.set_num_threads(before)
