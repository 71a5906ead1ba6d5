"""A step that fails, or memory that runs out: who took part is drawn again, and only who fails alone has failed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.core.engine import Engine, EngineConfig
from engine.core.pages import IntegrityError
from service.worker import worker
from service.worker.engine_thread import code_of
from tests.support.waiting import PATIENCE, soon
from tests.support.worker import CONFIG, Service, alone, candidates, serving

POISON = 13  # the seed that no engine can draw


class OutOfMemoryError(RuntimeError):
    """As torch's: known by its name."""


class NoRoomError(OutOfMemoryError): ...


def failing_over(engine: Engine, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Exception]) -> list[list[int]]:
    """Whenever the poison is drawn. The list gets the seeds that took part whenever it did."""
    run, failed = engine._runner.run, []

    def failing(drawings: Any) -> Any:
        seeds = [drawing.request.seed for drawing in drawings]
        if POISON in seeds:
            failed.append(seeds)
            raise make()
        return run(drawings)

    monkeypatch.setattr(engine._runner, "run", failing)
    return failed


async def poisoned(service: Service, **fields: Any) -> list[str]:
    """Innocents, and among them one that no engine can draw; they are drawn together. Their names."""
    names = ["a", "b"]
    for index, name in enumerate(names):
        await service.submit(name, seed=index, steps=64)
    for name in names:
        await service.seen(name, "tokens")
    await service.submit("poison", seed=POISON, **fields)
    return names


@pytest.mark.anyio
@pytest.mark.parametrize(("make", "code"), [(RuntimeError, "engine_failed"), (OutOfMemoryError, "out_of_memory")])
async def test_who_shared_the_step_with_poison_ends_well_and_the_poison_fails_alone(
    redis_url: str,
    engine: Engine,
    folder: Path,
    slowly: None,
    monkeypatch: pytest.MonkeyPatch,
    make: type[Exception],
    code: str,
) -> None:
    failed = failing_over(engine, monkeypatch, lambda: make("/somewhere"))
    async with serving(redis_url, engine, grace=10) as service:
        innocents = await poisoned(service)
        end = (await service.events("poison"))[-1]
        assert (end.name, end.json()["error"]["code"]) == ("failed", code)
        assert "job poison" in end.json()["error"]["message"]
        assert "somewhere" not in json.dumps(end.json())  # that is for the log
        for index, name in enumerate(innocents):
            [image] = (await service.result(name)).images
            assert np.array_equal(image.tokens(), alone(folder, seed=index, steps=64)[0])
            attempts = [e.json()["attempt"] for e in await service.events(name) if e.name == "started"]
            assert attempts[0] == 1
            assert len(attempts) > 1
        assert len(failed[0]) > 1
        assert failed[1:] == [[POISON]]  # once more, with nothing beside it
        assert await service.counted(1, "requests_total", model="random", task="generate", outcome="failed")
        assert await service.counted(2, "requests_total", model="random", task="generate", outcome="succeeded")
        await service.submit("next")
        assert await service.result("next")  # and the worker goes on
        assert await service.queue.redis.hgetall(f"{CONFIG.prefix}unfinished") == {}
        assert not service.running.done()


@pytest.mark.anyio
async def test_a_job_that_fails_with_nothing_beside_it_has_failed_at_once(
    service: Service, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_over(engine, monkeypatch, lambda: MemoryError("no room"))
    await service.submit("a", seed=POISON, n=2)
    events = await service.events("a")
    names = [event.name for event in events]  # its second picture may be drawn meanwhile
    assert (names[:2], names[-1]) == (["queued", "started"], "failed")
    assert names.count("started") == 1
    assert events[-1].json()["error"]["code"] == "out_of_memory"
    assert await soon(lambda: engine.idle)  # the second picture is aborted


class Held:
    """The step in which these take part first stands still until `go_on`, and fails if it is to."""

    def __init__(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, seeds: set[int], error: Exception | None
    ) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        run = engine._runner.run

        def held(drawings: Any) -> Any:
            if not self.entered.is_set() and seeds <= {drawing.request.seed for drawing in drawings}:
                self.entered.set()
                self.go_on.wait(20)
                if error is not None:
                    raise error
            return run(drawings)

        monkeypatch.setattr(engine._runner, "run", held)

    async def end_within(self, service: Service, name: str) -> None:
        """Cancels a job of the step, and returns when nothing of it is left but what the engine draws."""
        assert await asyncio.to_thread(self.entered.wait, 20)
        await service.queue.cancel(name)
        assert (await service.events(name))[-1].name == "canceled"
        assert await soon(lambda: f"job {name}" not in {task.get_name() for task in service.worker._tasks()})


@pytest.mark.anyio
async def test_an_innocent_is_not_alone_with_poison_that_was_canceled_during_the_step(
    redis_url: str, engine: Engine, slowly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(redis_url, engine, grace=10) as service:
        held = Held(engine, monkeypatch, {0, POISON}, RuntimeError("poison"))
        await service.submit("innocent", seed=0, steps=64)
        await service.submit("poison", seed=POISON, steps=64)
        await held.end_within(service, "poison")
        held.go_on.set()
        assert await service.result("innocent")


@pytest.mark.anyio
async def test_the_worker_is_not_empty_while_its_engine_draws_what_was_canceled(
    redis_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(redis_url, engine, grace=10) as service:
        held, quarantine = Held(engine, monkeypatch, {0}, None), service.worker._models[0]._quarantine
        await service.submit("a", seed=0, steps=64)
        await held.end_within(service, "a")
        assert not quarantine.empty
        held.go_on.set()
        assert await soon(lambda: quarantine.empty)


@pytest.mark.anyio
async def test_a_job_that_was_canceled_meanwhile_is_not_drawn_again(
    redis_url: str, engine: Engine, slowly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(redis_url, engine, grace=10) as service:
        quarantine = service.queue.quarantine

        async def canceled_first(job_id: str, *more: Any) -> Any:
            await service.queue.cancel(job_id)
            return await quarantine(job_id, *more)

        monkeypatch.setattr(service.queue, "quarantine", canceled_first)
        failing_over(engine, monkeypatch, RuntimeError)
        for name in [*await poisoned(service), "poison"]:
            assert (await service.events(name))[-1].name == "canceled"
        assert await service.counted(3, "requests_total", model="random", task="generate", outcome="canceled")


@pytest.mark.anyio
@pytest.mark.parametrize("error", [RuntimeError("no kernel"), IntegrityError("page 3 is held twice")])
async def test_an_engine_that_always_fails_ends_the_worker_and_jobs_go_on_elsewhere(
    redis_url: str, engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(drawings: Any) -> Any:
        raise error

    monkeypatch.setattr(engine._runner, "run", broken)
    async with serving(redis_url, engine, grace=5) as service:
        await service.submit("a")
        with pytest.raises(worker.WorkerFailed, match=str(error)):
            await asyncio.wait_for(service.running, PATIENCE)
        assert await candidates(service.queue, "random") == ["a"]
        assert await service.queue.redis.zrange(CONFIG.line_key("leases", "random"), 0, -1) == []
    other = Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=2048))
    async with serving(redis_url, other, grace=5) as service:
        assert await service.result("a")


@pytest.mark.anyio
async def test_a_job_that_breaks_every_engine_fails_after_three_of_its_own(
    redis_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise RuntimeError("no such device")

    for attempt in range(1, 5):
        engine = Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=2048))
        monkeypatch.setattr(engine, "step", broken)
        async with serving(redis_url, engine, grace=5) as service:
            if attempt == 1:
                await service.submit("a")
            with pytest.raises(worker.WorkerFailed, match="no such device"):
                await asyncio.wait_for(service.running, PATIENCE)
            found = await service.queue.job("a")
            assert found is not None
            assert (found.state, found.attempt) == ("failed" if attempt == 4 else "queued", attempt)
            code = found.error and found.error["code"]
            assert code == ("engine_failed" if attempt == 4 else None)


def test_memory_that_ran_out_is_known_by_the_errors_name() -> None:
    errors = (OutOfMemoryError(), NoRoomError(), MemoryError(), RuntimeError("out of memory"), KeyError())
    assert [code_of(error) for error in errors] == ["out_of_memory"] * 3 + ["engine_failed"] * 2
