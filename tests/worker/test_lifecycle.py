"""How a worker comes, keeps what it holds, and goes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from engine.core.engine import Engine, EngineConfig
from service.jobs import QueueConfig
from service.worker import retry as outages
from service.worker import worker
from tests.support.processes import REPOSITORY
from tests.support.queue import decoded
from tests.support.waiting import PATIENCE, soon
from tests.support.worker import CONFIG, Service, alone, candidates, serving


def test_a_worker_brings_no_torch_in() -> None:
    """Only the engine does: with another engine (or none) it is a light process."""
    code = "import service.worker, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


async def until_palette(service: Service) -> bytes:
    return await soon(lambda: service.cards.palette("random"))


@pytest.mark.anyio
async def test_pictures_are_drawn_while_the_palette_is_still_made(
    redis_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make = threading.Event(), engine.codec.palette

    def slow(stop: Callable[[], bool]) -> np.ndarray:
        made.wait(30)
        return make(stop)

    monkeypatch.setattr(engine.codec, "palette", slow)
    async with serving(redis_url, engine, grace=5) as service:
        await service.submit("j")
        await service.seen("j", "completed")
        assert await service.cards.palette("random") is None
        made.set()
        assert await until_palette(service) == make().tobytes()


@pytest.mark.anyio
async def test_the_card_is_shown_and_withdrawn(redis_url: str, engine: Engine) -> None:
    async with serving(redis_url, engine, grace=5) as service:
        models = await soon(service.cards.models)
        assert models["random"]["card"] == json.loads(json.dumps(engine.model.to_json()))
        assert models["random"]["capacity"] == {"cache_tokens": 3 * 2 * 64, "page_size": 16}
        assert len(await until_palette(service)) == 64 * 4 * 4 * 3
        service.stop.set()
        await asyncio.wait_for(service.running, PATIENCE)
        assert await service.cards.models() == {}


@pytest.mark.anyio
@pytest.mark.usefixtures("slowly")
async def test_a_stop_lets_running_jobs_finish_and_takes_no_more(redis_url: str, engine: Engine) -> None:
    async with serving(redis_url, engine, grace=15) as service:
        await service.submit("a", steps=64, n=3)
        await service.seen("a", "tokens")
        service.stop.set()
        await asyncio.sleep(0.1)
        await service.submit("b")
        await asyncio.wait_for(service.running, PATIENCE)
        assert (await service.events("a"))[-1].name == "completed"
        waiting = await service.queue.job("b")
        assert waiting is not None
        assert waiting.state == "queued"
    assert all(not lane._thread._thread.is_alive() for lane in service.worker._models)


@pytest.mark.anyio
@pytest.mark.usefixtures("slowly")
async def test_a_stop_without_grace_hands_back_what_another_worker_finishes(
    redis_url: str, engine: Engine, folder: Path
) -> None:
    async with serving(redis_url, engine, grace=0) as service:
        await service.submit("a", steps=200, n=3)
        await service.seen("a", "tokens")
        service.stop.set()
        await asyncio.wait_for(service.running, PATIENCE)
        released = await service.queue.job("a")
        assert released is not None
        assert (released.state, released.position) == ("queued", 0)
    other = Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=2048))
    async with serving(redis_url, other, grace=5) as service:
        result = await service.result("a")
        expected = alone(folder, steps=200, n=3)
        assert [image.tokens().tolist() for image in result.images] == [tokens.tolist() for tokens in expected]
        attempts = [e.json()["attempt"] for e in await service.events("a") if e.name == "started"]
        assert attempts == [1, 2]


@pytest.mark.anyio
async def test_an_outage_of_redis_fails_no_job(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "RETRY_SECONDS", 0.01)
    away: list[str] = []
    for owner, name in ((service.blobs, "put"), (service.queue, "finish")):
        real = getattr(owner, name)

        async def failing(*arguments: Any, name: str = name, real: Any = real, **more: Any) -> Any:
            if away.count(name) < 3:
                away.append(name)
                raise redis.ConnectionError("away")
            return await real(*arguments, **more)

        monkeypatch.setattr(owner, name, failing)
    await service.submit("a")
    assert await service.result("a")
    assert away == ["put"] * 3 + ["finish"] * 3


@pytest.mark.anyio
async def test_a_hurried_stop_hands_back_at_once(redis_url: str, engine: Engine, slowly: None) -> None:
    async with serving(redis_url, engine, grace=600) as service:
        await service.submit("a", steps=256, n=3)
        await service.seen("a", "tokens")
        service.stop.set()
        await asyncio.sleep(0.1)
        service.running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(service.running, PATIENCE)
        released = await service.queue.job("a")
        assert released is not None
        assert released.state == "queued"
    assert engine.stats().steps_total < 50


@pytest.mark.anyio
async def test_a_worker_that_lost_its_job_drops_it(service: Service, engine: Engine, slowly: None) -> None:
    await service.submit("a", steps=256, n=3)
    await service.seen("a", "tokens")
    await service.queue.release("a", 1)  # as if its lease had ended
    (again,) = await service.queue.claim("random", "heir", budget=0, limit=1, alone=True)
    assert again.attempt == 2
    assert await soon(lambda: not engine.stats().pages_used)
    assert engine.stats().steps_total < 50
    events: Any = await service.queue.redis.xrange(f"{CONFIG.prefix}events:a")
    assert [
        entry_id for entry_id, _ in events if decoded(entry_id).startswith("2-")
    ] == []  # not a word in the heir's name
    await service.queue.finish("a", 2, 1, state="succeeded", event="completed", data={})


@pytest.mark.anyio
async def test_leases_are_kept_through_a_slow_step(
    service: Service, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine._runner.run

    def slow(drawings: Any) -> Any:
        time.sleep(CONFIG.lease_seconds * 1.3)
        monkeypatch.setattr(engine._runner, "run", run)
        return run(drawings)

    monkeypatch.setattr(engine._runner, "run", slow)
    await service.submit("a")
    await service.result("a")
    found = await service.queue.job("a")
    assert found is not None
    assert found.attempt == 1


@pytest.mark.anyio
async def test_a_hung_engine_loses_its_jobs_and_ends_the_worker(
    redis_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(engine._runner, "run", lambda _: release.wait(20))
    monkeypatch.setattr(worker, "LEAVING_SECONDS", 0.2)
    async with serving(redis_url, engine, grace=5, hung=0.3) as service:
        await service.submit("a")
        with pytest.raises(worker.WorkerFailed, match="a step has taken more than"):
            await asyncio.wait_for(service.running, PATIENCE)
        found = await service.queue.job("a")
        assert found is not None
        assert (found.state, found.attempt) == ("queued", 1)
        assert await candidates(service.queue, "random") == ["a"]  # it may be why
    release.set()


@pytest.mark.anyio
async def test_the_engine_goes_on_while_redis_stalls(
    redis_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled: list[int] = []
    async with serving(redis_url, engine, config=QueueConfig(lease_seconds=30)) as service:
        publish = service.queue.publish

        async def stalling(publications: Any) -> Any:
            if not stalled and any(p.event == "tokens" for p in publications):
                stalled.append(1)
                assert await soon(lambda: not engine.stats().running)
                raise ConnectionError("away")
            return await publish(publications)

        monkeypatch.setattr(service.queue, "publish", stalling)
        await service.submit("a", steps=32)
        tokens = [event.json() for event in await service.events("a") if event.name == "tokens"]
    assert len(tokens) <= 3  # what was under way, the rest merged, and the last step where its report came late
    positions = [position for data in tokens for position in data["positions"]]
    assert sorted(positions) == list(range(64))
    assert (tokens[-1]["step"], tokens[-1]["n_done"]) == (32, 64)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
