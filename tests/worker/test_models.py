"""Several models in one worker: each claims and draws by itself, and one that fails takes its own jobs alone."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.engine import Engine, EngineConfig
from engine.core.pages import IntegrityError
from engine.request import Request
from service.jobs import QueueConfig
from service.settings import Settings
from service.worker import worker
from service.worker.engine_loading import SameName, cache_share, load_engines
from tests.support.tiny import random_folder
from tests.support.waiting import PATIENCE, soon
from tests.support.worker import CONFIG, Service, alone, candidates, serving

FIXED = dict.fromkeys(("steps", "schedule", "guidance_schedule", "content_attention"))
ASKED: dict[str, dict[str, Any]] = {
    "anyorder": {"steps": 5, "n": 2},
    "raster": {"n": 2, "guidance_scale": 2.0, **FIXED},
    "regions": {"guidance_scale": 1.0, **FIXED},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each family; they differ in grid and codebook."""
    sizes: dict[str, dict[str, Any]] = {
        "anyorder": {"family": "arpg", "grid": (8, 8)},
        "raster": {"family": "llamagen", "grid": (4, 4), "codes": 48},
        "regions": {"family": "par", "grid": (4, 8), "codes": 32},
    }
    return {name: random_folder(tmp_path_factory.mktemp(name), name=name, **size) for name, size in sizes.items()}


@pytest.fixture
def engines(folders: dict[str, Path]) -> dict[str, Engine]:
    config = EngineConfig(cache_tokens=3 * 2 * 64, check_every_step=True, batch_invariant=True)
    return {name: Engine.load(folder, device="cpu", config=config) for name, folder in folders.items()}


def before_each_step(engine: Engine, wait: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = engine._runner.run

    def waiting(drawings: Any) -> Any:
        wait()
        return run(drawings)

    monkeypatch.setattr(engine._runner, "run", waiting)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    opened = threading.Event()
    yield opened
    opened.set()


@pytest.mark.anyio
async def test_each_family_draws_while_the_others_do(
    redis_url: str, engines: dict[str, Engine], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No engine takes its first step before all are about to.
    meet = threading.Barrier(3)
    met: set[int] = set()

    def wait() -> None:
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            meet.wait(20)

    for engine in engines.values():
        before_each_step(engine, wait, monkeypatch)
    patient = QueueConfig(lease_seconds=30)  # who waits for the others keeps its job
    async with serving(redis_url, *engines.values(), config=patient, grace=10) as service:
        for name, fields in ASKED.items():
            await service.submit(name, model=name, **fields)
        for name, fields in ASKED.items():
            result = await service.result(name)
            expected = alone(folders[name], model=name, **fields)
            assert [image.tokens().tolist() for image in result.images] == [tokens.tolist() for tokens in expected]
            started = (await service.seen(name, "started")).json()
            steps = {"anyorder": 5, "raster": 16, "regions": 4 + 32 // 4 - 1}[name]
            assert (started["grid"], started["steps"]) == (list(engines[name].model.grid), steps)
            last = [event for event in await service.events(name) if event.name == "tokens"][-1]
            assert (last.json()["step"], last.json()["steps"]) == (steps, steps)
            assert result.usage["steps"] == steps

            n, positions = fields.get("n", 1), engines[name].model.positions
            assert await service.counted(n, "images_total", model=name)
            assert await service.counted(n * positions, "generation_tokens_total", model=name)
            assert await service.counted(1, "request_queue_time_seconds_count", model=name)
            assert await service.counted(1, "e2e_request_latency_seconds_count", model=name, task="generate")
            assert await service.counted(engines[name].stats().steps_total, "step_seconds_count", model=name)
            assert await service.counted(engines[name].stats().pages_total, "kv_pages", model=name)


@pytest.mark.anyio
async def test_a_backlog_of_one_model_holds_up_no_other(
    redis_url: str, engines: dict[str, Engine], gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, free = engines["anyorder"], engines["raster"]
    before_each_step(busy, lambda: gate.wait(30), monkeypatch)
    async with serving(redis_url, busy, free, grace=10) as service:
        backlog = [f"b{i}" for i in range(50)]
        for index, job_id in enumerate(backlog):
            await service.submit(job_id, model="anyorder", steps=1, seed=index)
        assert await soon(lambda: busy.stats().running)
        await service.submit("single", model="raster", **FIXED)
        # Not a step is taken for the backlog, and the single job is claimed, drawn and finished.
        assert await service.result("single")
        assert busy.stats().steps_total == 0
        fits = busy.tokens_total // busy.cost(Request(class_label=1, steps=1))
        assert await service.queue.depth("anyorder") >= len(backlog) - fits > 0
        gate.set()
        for job_id in backlog:
            assert await service.result(job_id)


@pytest.mark.anyio
async def test_the_card_lists_all_models_with_their_palettes(redis_url: str, engines: dict[str, Engine]) -> None:
    async with serving(redis_url, *engines.values(), grace=5) as service:
        shown = await soon(service.cards.models)
        assert len(await service.cards.all()) == 1
        assert {name: model["card"] for name, model in shown.items()} == {
            name: json.loads(json.dumps(engine.model.to_json())) for name, engine in engines.items()
        }
        for name, engine in engines.items():
            assert shown[name]["capacity"] == {"cache_tokens": engine.tokens_total, "page_size": 16}
            assert await soon(partial(service.cards.palette, name)) == engine.codec.palette().tobytes()
        service.stop.set()
        await asyncio.wait_for(service.running, PATIENCE)
        assert await service.cards.models() == {}


async def fail_over(service: Service, engine: Engine, monkeypatch: pytest.MonkeyPatch, job_id: str) -> None:
    """The engine breaks over this job, which was submitted to it."""

    def broken(drawings: Any) -> Any:
        raise IntegrityError("page 3 is held twice")

    monkeypatch.setattr(engine._runner, "run", broken)
    await service.submit(job_id, model=engine.model.name, **FIXED)
    assert await soon(lambda: engine.model.name not in [m.model for m in service.worker._models if not m.has_failed])


@pytest.mark.anyio
async def test_an_engine_that_fails_takes_its_own_model_alone(
    redis_url: str, engines: dict[str, Engine], gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, broken = engines["anyorder"], engines["raster"]
    before_each_step(sound, lambda: gate.wait(30), monkeypatch)
    async with serving(redis_url, sound, broken, grace=5) as service:
        await service.submit("innocent", model="anyorder")
        assert await soon(lambda: sound.stats().running)
        await fail_over(service, broken, monkeypatch, "guilty")

        async def is_withdrawn() -> bool:
            return set(await service.cards.models()) == {"anyorder"}

        assert await soon(is_withdrawn)
        # The guilty job waits for a worker with nothing beside it. The innocent job is not disturbed.
        assert await soon(lambda: candidates(service.queue, "raster")) == ["guilty"]
        assert await service.queue.redis.zrange(CONFIG.line_key("leases", "raster"), 0, -1) == []
        gate.set()
        assert await service.result("innocent")
        found = await service.queue.job("innocent")
        assert found is not None
        assert found.attempt == 1
        assert await soon(lambda: not service.worker._replacing)
        for series in ("num_requests_running", "num_requests_waiting", "kv_pages_used"):
            assert service.sample(series, model="raster") == 0
        await service.submit("next", model="anyorder")  # and the failed model's jobs hold up no other
        assert await service.result("next")
        assert not service.running.done()


@pytest.mark.anyio
async def test_a_failed_model_is_served_again_with_a_new_engine(
    redis_url: str, engines: dict[str, Engine], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RESTART_SECONDS", 0.01)
    loaded: list[int] = []

    async def reload(place: int) -> Engine:
        loaded.append(place)
        if len(loaded) == 1:
            raise OSError("the disk is busy")
        return Engine.load(folders["raster"], device="cpu", config=EngineConfig(cache_tokens=3 * 2 * 64))

    async with serving(redis_url, engines["anyorder"], engines["raster"], reload=reload, grace=5) as service:
        await fail_over(service, engines["raster"], monkeypatch, "guilty")
        assert await service.result("guilty")  # alone on a sound engine
        assert loaded == [1, 1]
        assert await soon(lambda: service.cards.models())
        assert set(await service.cards.models()) == {"anyorder", "raster"}
        await service.submit("other", model="anyorder")
        assert await service.result("other")


@pytest.mark.anyio
async def test_the_worker_ends_with_its_last_model(
    redis_url: str, engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(redis_url, engines["anyorder"], engines["raster"], grace=5) as service:
        await fail_over(service, engines["raster"], monkeypatch, "guilty")
        await fail_over(service, engines["anyorder"], monkeypatch, "too")
        await service.submit("late", model="anyorder")
        with pytest.raises(worker.WorkerFailed, match="the engine of anyorder: IntegrityError: page 3"):
            await asyncio.wait_for(service.running, PATIENCE)
        for name, job_id in (("raster", "guilty"), ("anyorder", "too")):
            assert await candidates(service.queue, name) == [job_id]
        late = await service.queue.job("late")
        assert late is not None
        assert (late.state, late.attempt) == ("queued", 0)


@pytest.mark.anyio
async def test_two_models_of_one_name_are_refused(folders: dict[str, Path], tmp_path: Path, team: None) -> None:
    other = random_folder(tmp_path / "other", name="raster", grid=(2, 2))
    paths = (str(folders["anyorder"]), str(folders["raster"]), str(other))
    settings = Settings(models=paths, device="cpu", _env_file=None)
    with pytest.raises(SameName, match=f"two models are called raster: {paths[1]} and {other}"):
        [engine async for engine in load_engines(settings)]


@given(count=st.integers(1, 20), total=st.floats(0.01, 0.99))
def test_the_caches_of_a_device_share_alike(count: int, total: float) -> None:
    free, caches = 1.0, []
    for before in range(count):
        caches.append(free * cache_share(total, before=before, count=count))
        free -= caches[-1]
    assert caches == pytest.approx([total / count] * count)
