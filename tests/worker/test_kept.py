"""Pictures that an attempt finished are kept: the next one draws what is missing, and the result is that of a run
without faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from engine.core.engine import Engine, EngineConfig
from engine.request import Request
from service.jobs import connect
from service.jobs.result import StoredImage
from service.tasks.planning import image_seeds
from service.worker import worker
from tests.support.tiny import random_folder
from tests.support.waiting import soon
from tests.support.worker import CONFIG, Service, alone, pixels, serving

FIELDS: dict[str, Any] = {"n": 7, "steps": 12, "seed": 3}  # of which the cache holds three at once


async def stored(redis: Redis, at_least: int) -> set[int]:
    """The finished pictures of the job, as soon as there are so many."""

    async def enough() -> list[Any]:
        found = await redis.hkeys(f"{CONFIG.prefix}pictures:a")
        return found if len(found) >= at_least else []

    return {int(index) for index in await soon(enough)}


@pytest.mark.anyio
@pytest.mark.parametrize("goes", ["without a word", "in order"])
async def test_finished_pictures_outlive_their_worker(
    redis_url: str, engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, goes: str
) -> None:
    redis = connect(redis_url)
    async with serving(redis_url, engine, grace=0) as service:
        await service.submit("a", **FIELDS)
        await stored(redis, 2)
        if goes == "without a word":
            monkeypatch.setattr(worker, "LEAVING_SECONDS", 0.2)
            monkeypatch.setattr(service.queue, "release", cut_off)
        service.stop.set()
        await asyncio.wait_for(service.running, 30)
        left = await service.queue.job("a")
        assert left is not None
        assert left.state == ("running" if goes == "without a word" else "queued")
    kept = await stored(redis, 2)
    assert len(kept) < FIELDS["n"]
    other = Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=2048, batch_invariant=True))
    asked: list[int] = []
    add = other.add

    def asked_add(request: Request) -> int:
        asked.append(request.seed)
        return add(request)

    monkeypatch.setattr(other, "add", asked_add)
    async with serving(redis_url, other, grace=5) as service:
        result = await service.result("a")
        seeds = image_seeds(FIELDS["seed"], FIELDS["n"])
        assert sorted(asked) == sorted(seeds[index] for index in set(range(7)) - kept)
        images = result.images
        assert [(image.index, image.seed) for image in images] == list(enumerate(seeds))
        for image, expected in zip(images, alone(folder, **FIELDS), strict=True):
            assert np.array_equal(image.tokens(), expected)
            assert image.blob.split("/")[2] == ("1" if image.index in kept else "2")
            assert (pixels(await service.blobs.get(image.blob)) == engine.codec.decode(expected)).all()
        assert result.usage == {"steps": 12, "tokens_drawn": 7 * 64, "tokens_known": 0}
        await told_whole(service, kept, images)
        held = [await service.blobs.get(image.blob) for image in images]
        assert await service.blobs.bytes_used() == sum(len(png or b"") for png in held)
        assert not await redis.exists(f"{CONFIG.prefix}pictures:a")
    await redis.aclose()


async def cut_off(*_: Any) -> Any:
    raise ConnectionError("away")


async def told_whole(service: Service, kept: set[int], images: Sequence[StoredImage]) -> None:
    """Who watches the second attempt alone sees every picture whole."""
    second = [event for event in await service.events("a") if event.id.startswith("2-")]
    assert second[0].name == "started"
    assert (second[0].json()["attempt"], second[0].json()["kept"]) == (2, sorted(kept))
    for image in images:
        told = [e.json() for e in second if e.name == "tokens" and e.json()["image_index"] == image.index]
        cells = [pair for data in told for pair in zip(data["positions"], data["tokens"], strict=True)]
        assert sorted(cells) == list(enumerate(image.tokens().ravel()))
        assert (told[-1]["step"], told[-1]["n_done"], told[-1]["n_total"]) == (12, 64, 64)
        assert len(told) == 1 or image.index not in kept


@pytest.mark.anyio
async def test_pictures_of_other_weights_are_drawn_again(redis_url: str, engine: Engine, tmp_path: Path) -> None:
    redis = connect(redis_url)
    async with serving(redis_url, engine, grace=0) as service:
        await service.submit("a", **FIELDS)
        await stored(redis, 2)
        service.stop.set()
        await asyncio.wait_for(service.running, 30)
    kept = await stored(redis, 2)
    assert len(kept) < FIELDS["n"]
    folder = random_folder(tmp_path, n_layer=3)  # of the same name
    other = Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=2048, batch_invariant=True))
    assert (other.model.name, other.model.weights) != (engine.model.name, engine.model.weights)
    async with serving(redis_url, other, grace=5) as service:
        result = await service.result("a")
        assert (result.tokenizer, result.weights) == (other.model.tokenizer, other.model.weights)
        for image, expected in zip(result.images, alone(folder, **FIELDS), strict=True):
            assert np.array_equal(image.tokens(), expected)
            assert image.blob.split("/")[2] == "2"
        _, second = [event for event in await service.events("a") if event.name == "started"]
        assert second.json()["kept"] == []
        assert (second.json()["tokenizer"], second.json()["weights"]) == (other.model.tokenizer, other.model.weights)
        held = [await service.blobs.get(image.blob) for image in result.images]
        assert await service.blobs.bytes_used() == sum(len(png or b"") for png in held)
    await redis.aclose()


@pytest.mark.anyio
async def test_a_fork_of_what_other_weights_drew_fails(service: Service, engine: Engine) -> None:
    """They were exchanged while the fork waited."""
    await service.submit("parent", steps=8, seed=1)
    result = await service.result("parent")
    fork = {"job": "parent", "image": 0, "step": 4, "seeds": [(4, 1)], "replayed": result.images[0].tokens()}
    told = result.model_dump() | {"weights": "0" * 16}
    await service.queue.redis.hset(f"{CONFIG.prefix}job:parent", "result", json.dumps(told))
    await service.submit("a", steps=8, seed=2, fork=fork)
    [*_, last] = await service.events("a")
    assert (last.name, last.json()["error"]["code"]) == ("failed", "other_weights")


def released_before_its_end(service: Service, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, when all its pictures are there."""
    finish = service.queue.finish

    async def late(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(service.queue, "finish", finish)
        await service.queue.release(job_id, 1)
        return await finish(*arguments, **more)

    monkeypatch.setattr(service.queue, "finish", late)


@pytest.mark.anyio
async def test_a_job_whose_pictures_are_all_kept_needs_only_its_end(
    service: Service, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    released_before_its_end(service, "a", monkeypatch)
    await service.submit("a", n=2, steps=8)
    result = await service.result("a")
    assert [image.blob.split("/")[2] for image in result.images] == ["1", "1"]
    assert result.usage == {"steps": 8, "tokens_drawn": 2 * 64, "tokens_known": 0}
    assert (await service.seen("a", "completed")).id.startswith("2-")
    assert engine.stats().steps_total <= 2 * 8


@pytest.mark.anyio
async def test_a_fork_keeps_its_pictures_and_counts_what_it_drew_itself(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.submit("parent", steps=8, seed=1)
    [parent] = (await service.result("parent")).images
    tokens = parent.tokens()
    fork = {"job": "parent", "image": 0, "step": 4, "seeds": [(4, 1)], "replayed": tokens}
    fields = {"n": 2, "steps": 8, "seed": 2, "fork": fork}
    await service.submit("undisturbed", **fields)
    expected = await service.result("undisturbed")
    released_before_its_end(service, "a", monkeypatch)
    await service.submit("a", **fields)
    result = await service.result("a")
    assert (await service.seen("a", "completed")).id.startswith("2-")
    assert [image.tokens().tolist() for image in result.images] == [
        image.tokens().tolist() for image in expected.images
    ]
    assert result.usage == expected.usage
    assert 0 < result.usage["tokens_drawn"] < 2 * 64
