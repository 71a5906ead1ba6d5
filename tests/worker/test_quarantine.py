"""A worker draws a poison candidate with nothing beside it, whatever models it serves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from engine.core.engine import Engine, EngineConfig
from service.jobs import Queue, QueueConfig
from tests.support.tiny import random_folder
from tests.support.waiting import soon
from tests.support.worker import Service, alone, candidates, serving

HASTY = QueueConfig(lease_seconds=2.0, quarantine_seconds=0)
NAMES = ("one", "two")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: random_folder(tmp_path_factory.mktemp(name), name=name, grid=(4, 4)) for name in NAMES}


@pytest.fixture
def engines(folders: dict[str, Path]) -> list[Engine]:
    config = EngineConfig(cache_tokens=2048, batch_invariant=True)
    return [Engine.load(folder, device="cpu", config=config) for folder in folders.values()]


@pytest.fixture
def slow_engines(engines: list[Engine], monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Steps of at least 20 ms."""
    for engine in engines:

        def slow(drawings: Any, run: Any = engine._runner.run) -> Any:
            time.sleep(0.02)
            return run(drawings)

        monkeypatch.setattr(engine._runner, "run", slow)
    return engines


class Company:
    """Who is held beside whom by a worker, of all its models."""

    def __init__(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: dict[str, set[str]] = {}
        self._held: set[str] = set()
        claim, finish = queue.claim, queue.finish

        async def claiming(*arguments: Any, **more: Any) -> Any:
            claims = await claim(*arguments, **more)
            self._held |= {taken.id for taken in claims}
            for job_id in self._held:
                self.of[job_id] = self.of.get(job_id, set()) | self._held - {job_id}
            return claims

        async def finishing(job_id: str, *arguments: Any, **more: Any) -> Any:
            answer = await finish(job_id, *arguments, **more)
            self._held.discard(job_id)
            return answer

        monkeypatch.setattr(queue, "claim", claiming)
        monkeypatch.setattr(queue, "finish", finishing)


def plain(first: int) -> dict[str, dict[str, Any]]:
    """Eight jobs, of both models."""
    return {f"plain-{i}": {"model": NAMES[i % 2], "seed": i, "steps": 16} for i in range(first, first + 8)}


async def until_none_is_ready(service: Service) -> None:
    async def none_is_ready() -> bool:
        return not any([await service.queue.depth(name) for name in NAMES])

    assert await soon(none_is_ready)


async def lose(service: Service, jobs: dict[str, dict[str, Any]]) -> None:
    """These were drawn by a worker that is dead now."""
    for job_id, fields in jobs.items():
        await service.submit(job_id, **fields)
    dead = Queue(service.queue.redis, HASTY)
    for name in NAMES:
        for claim in await dead.claim(name, "dead", budget=10**6, limit=10, alone=True):
            await dead.redis.zadd(HASTY.line_key("leases", name), {claim.id: 1})
            assert claim.id in jobs


@pytest.mark.anyio
async def test_candidates_are_drawn_alone_whatever_else_waits_and_they_do_not_wait_for_ever(
    redis_url: str, slow_engines: list[Engine], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(redis_url, *slow_engines, config=HASTY, grace=10) as service:
        company = Company(service.queue, monkeypatch)
        guarded: dict[str, dict[str, Any]] = {
            f"candidate-{i}": {"model": NAMES[i % 2], "seed": i, "steps": 4} for i in range(4)
        }
        for job_id, fields in plain(0).items():
            await service.submit(job_id, **fields)
        await until_none_is_ready(service)  # the worker is busy with them
        async with service.worker._models[0]._quarantine.turn:
            await lose(service, guarded)
            for job_id, fields in plain(8).items():
                await service.submit(job_id, **fields)
        for job_id, fields in guarded.items():
            [image] = (await service.result(job_id)).images
            [expected] = alone(folders[fields["model"]], **fields)
            assert np.array_equal(image.tokens(), expected)
            assert company.of[job_id] == set()
            done = await service.queue.job(job_id)
            assert done is not None
            assert done.attempt == 2
        for job_id in plain(0) | plain(8):
            assert await service.result(job_id)
        assert any({f"plain-{i}" for i in range(1, 8, 2)} & company.of[f"plain-{i}"] for i in range(0, 8, 2))


@pytest.mark.anyio
async def test_jobs_that_the_queue_gives_up_are_counted(redis_url: str, engines: list[Engine]) -> None:
    once = QueueConfig(lease_seconds=2.0, max_lost=0)
    async with serving(redis_url, *engines, config=once, grace=10) as service:
        async with service.worker._models[0]._quarantine.turn:
            await lose(service, {"a": {"model": "one"}})
        assert (await service.events("a"))[-1].json()["error"]["code"] == "worker_lost"
        assert await service.counted(1, "requests_total", model="one", task="generate", outcome="failed")
        assert await service.counted(1, "job_failures_total", model="one", code="worker_lost")
        assert await service.counted(1, "lease_takeovers_total", model="one")


@pytest.mark.anyio
async def test_jobs_granted_in_a_lost_answer_are_not_left_to_their_leases(
    redis_url: str, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(redis_url, *engines, config=QueueConfig(lease_seconds=60), grace=10) as service:
        claim = service.queue.claim
        lost: list[Any] = []

        async def losing(*arguments: Any, **more: Any) -> Any:
            claims = await claim(*arguments, **more)
            if claims and len(lost) < 3:
                lost.append(claims[0].id)
                raise redis.TimeoutError("the answer did not come")
            return claims

        monkeypatch.setattr(service.queue, "claim", losing)
        await service.submit("a", model="one")
        assert await service.result("a")
        found = await service.queue.job("a")
        assert found is not None
        assert (found.attempt, lost) == (1, ["a"] * 3)


@pytest.mark.anyio
async def test_a_worker_that_was_frozen_keeps_what_nobody_took_and_its_job_is_no_candidate(
    redis_url: str, slow_engines: list[Engine]
) -> None:
    async with serving(redis_url, *slow_engines, config=QueueConfig(lease_seconds=60), grace=10) as service:
        await service.submit("a", model="one", steps=16, n=3)
        await service.seen("a", "tokens")
        # Meanwhile another worker found the lease ended.
        leases = HASTY.line_key("leases", "one")
        await service.queue.redis.zadd(leases, {"a": 1})
        other = Queue(service.queue.redis, QueueConfig(lease_seconds=60))
        assert await other.claim("one", "other", budget=0, limit=1, alone=False) == []

        async def none_is_candidate() -> bool:
            return not await candidates(service.queue, "one")

        assert await soon(none_is_candidate)
        assert await service.result("a")
        job = await service.queue.redis.hmget(f"{HASTY.prefix}job:a", "blames", "lost", "alone")
        assert job == [b"0", b"0", None]
