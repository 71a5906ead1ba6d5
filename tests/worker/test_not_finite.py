"""Logits that are not finite: the job alone fails, unless the engine can draw nothing else either."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.core.engine import Engine
from engine.request import Request
from service.worker import worker
from tests.support.waiting import PATIENCE
from tests.support.worker import Service, alone, candidates, serving


def break_classes(engine: Engine, *labels: int | None) -> None:
    for label in labels:
        [condition, *_] = engine._plan(Request(class_label=label)).conditions
        assert isinstance(condition.source, int)
        with torch.inference_mode():
            engine._runner.forward_pass.embeddings[condition.source] = torch.nan


@pytest.mark.anyio
async def test_the_job_fails_at_once_and_those_beside_it_are_drawn_in_one_attempt(
    service: Service, engine: Engine, folder: Path, slowly: None
) -> None:
    break_classes(engine, 2)
    for index, name in enumerate("ab"):
        await service.submit(name, seed=index, steps=30)
        await service.seen(name, "tokens")
    await service.submit("broken", **{"class": 2})
    end = (await service.events("broken"))[-1]
    assert (end.name, end.json()["error"]["code"]) == ("failed", "not_finite")
    assert "job broken; a lower guidance_scale" in end.json()["error"]["message"]
    for index, name in enumerate("ab"):
        [image] = (await service.result(name)).images
        assert np.array_equal(image.tokens(), alone(folder, seed=index, steps=30)[0])
        assert [event.name for event in await service.events(name)].count("started") == 1


@pytest.mark.anyio
@pytest.mark.parametrize("label", [2, 0, None])
async def test_it_fails_with_nothing_beside_it_too_and_the_worker_goes_on(
    service: Service, engine: Engine, label: int | None
) -> None:
    """Even if it draws what the worker tries the engine with."""
    break_classes(engine, label)
    await service.submit("broken", **{"class": label}, n=2)
    events = await service.events("broken")
    assert [event.name for event in events].count("started") == 1
    assert events[-1].json()["error"]["code"] == "not_finite"
    await service.submit("next", **{"class": 3}, guidance_scale=1.0)
    assert await service.result("next")


@pytest.mark.anyio
async def test_an_engine_that_draws_nothing_any_more_ends_the_worker_and_no_job(
    redis_url: str, engine: Engine, slowly: None
) -> None:
    async with serving(redis_url, engine, grace=5) as service:
        for name in "ab":
            await service.submit(name, steps=60)
            await service.seen(name, "tokens")
        with torch.inference_mode():
            engine._runner.forward_pass.embeddings.fill_(torch.nan)
        with pytest.raises(worker.WorkerFailed, match="not finite"):
            await asyncio.wait_for(service.running, PATIENCE)
        assert sorted(await candidates(service.queue, "random")) == ["a", "b"]
