"""Forks through the whole service, HTTP to engine: they share their parent's steps, live or rebuilt."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from engine.core.engine import Engine, EngineConfig
from engine.plans.schedule import step_counts
from service.cli.verify import redraw
from service.settings import Settings
from service.tasks.pictures import recipe
from tests.support.api import noise, png, running_api
from tests.support.tiny import random_folder
from tests.support.waiting import PATIENCE
from tests.support.worker import Service, pixels, serving

MASK = np.zeros((20, 26), dtype=np.uint8)
MASK[5:15, 8:21] = 255


class Front:
    """The HTTP face, off the worker's event loop."""

    def __init__(self, client: httpx.Client, service: Service) -> None:
        self.client = client
        self.service = service

    async def post(self, path: str, **sent: Any) -> str:
        response = await asyncio.to_thread(self.client.post, path, **sent)
        assert response.status_code in (200, 202), response.text
        job_id: str = response.json()["id"]
        return job_id

    async def fork(self, job_id: str, **fields: Any) -> str:
        return await self.post(f"/v1/jobs/{job_id}/fork", json=fields)

    async def tokens(self, job_id: str, image: int = 0) -> np.ndarray:
        result = await self.service.result(job_id)
        return result.images[image].tokens()

    async def reached(self, job_id: str, step: int) -> None:
        async with asyncio.timeout(PATIENCE), contextlib.aclosing(self.service.hub.watch(job_id)) as events:
            async for event in events:
                if event.name == "tokens" and event.json()["step"] >= step:
                    return

    async def first(self, job_id: str, count: int, image: int = 0) -> dict[int, int]:
        """Position → token of so many, in the order in which the watchers of a picture heard of them. How many of them
        an event tells says nothing: they are merged while the queue is slow."""
        events = [event.json() for event in await self.service.events(job_id) if event.name == "tokens"]
        told = [
            pair
            for data in events
            if data["image_index"] == image
            for pair in zip(data["positions"], data["tokens"], strict=True)
        ]
        return dict(told[:count])

    async def first_steps(self, job_id: str, steps: int, image: int = 0) -> dict[int, int]:
        """As first: what so many of 9 steps drew."""
        total = len(await self.first(job_id, 10**6, image))
        return await self.first(job_id, sum(step_counts(total, 9, "arccos")[:steps]), image)

    async def pixels(self, job_id: str, image: int = 0) -> np.ndarray:
        await self.service.result(job_id)
        response = await asyncio.to_thread(self.client.get, f"/v1/jobs/{job_id}/images/{image}")
        return pixels(response.content)


@pytest.fixture
async def front(redis_url: str, service: Service) -> AsyncIterator[Front]:
    with running_api(Settings(redis_url=redis_url, _env_file=None)) as api:
        await asyncio.to_thread(api.wait_for_models, lambda names: "random" in names)
        yield Front(api.client, service)


async def generate(front: Front, **fields: Any) -> str:
    return await front.post("/v1/generate", json={"class": 1, "seed": 5, "steps": 9} | fields)


async def expand(front: Front, **fields: Any) -> str:
    return await front.post("/v1/expand", json={"class": 1, "seed": 5, "steps": 9, "width": 20, "height": 16} | fields)


async def inpaint(front: Front, **fields: Any) -> str:
    data = {"class": "1", "seed": "5", "steps": "9", "feather": "2"} | {n: str(v) for n, v in fields.items()}
    files = {"image": png(noise(20, 26, seed=2)), "mask": png(MASK)}
    return await front.post("/v1/inpaint", data=data, files=files)


async def vary(front: Front, **fields: Any) -> str:
    source: dict[str, Any] = {"job": await generate(front), "image": 0}
    await front.service.result(source["job"])
    return await front.post("/v1/vary", json={"source": source, "keep": 0.3, "seed": 5, "steps": 9} | fields)


@pytest.mark.anyio
@pytest.mark.parametrize("draw", [generate, expand, inpaint, vary])
async def test_a_fork_shares_the_first_steps_and_goes_on_by_itself(front: Front, draw: Any) -> None:
    parent = await draw(front, n=2)
    tokens = await front.tokens(parent, 1)
    child = await front.fork(parent, step=4, n=2, image_index=1, seed=99)
    shared = await front.first_steps(parent, 4, image=1)
    assert shared
    for index in range(2):
        drawn = await front.tokens(child, index)
        assert all(drawn.flat[position] == token for position, token in shared.items())
        assert not np.array_equal(drawn, tokens)
        # Who watches the fork alone sees the whole picture, from the step that it begins with.
        assert (await front.first_steps(child, 4, image=index)) == shared
        assert await front.first_steps(child, 9, index) == {
            position: int(drawn.flat[position]) for position in await front.first_steps(parent, 9, 1)
        }
    started = (await front.service.seen(child, "started")).json()
    assert started == (await front.service.seen(parent, "started")).json()
    # The parent's own noise draws the parent, from whatever step.
    seed = (await front.service.result(parent)).images[1].seed
    for step in (1, 8):
        same = await front.fork(parent, step=step, image_index=1, seed=seed)
        assert np.array_equal(await front.tokens(same), tokens)
        assert np.array_equal(await front.pixels(same), await front.pixels(parent, 1))
    # And a fork of a fork, at a step before and a step after its own.
    for step in (2, 6):
        again = await front.fork(child, step=step, seed=7)
        drawn, theirs = await front.tokens(again), await front.first_steps(child, step)
        assert all(drawn.flat[position] == token for position, token in theirs.items())
        if step == 2:
            direct = await front.fork(parent, step=2, image_index=1, seed=7)
            assert np.array_equal(drawn, await front.tokens(direct))


@pytest.mark.anyio
@pytest.mark.parametrize(("draw", "step"), [(generate, 28), (inpaint, 8)])
async def test_live_and_rebuilt_forks_agree_token_for_token(
    front: Front, engine: Engine, slowly: None, draw: Any, step: int
) -> None:
    parent = await draw(front, steps=64)
    await front.reached(parent, step)
    before = engine.stats().rows_shared_total
    live = await front.fork(parent, step=step, seed=99)
    tokens = await front.tokens(live)
    assert engine.stats().rows_shared_total > before
    await front.service.result(parent)
    assert engine.idle
    before = engine.stats().rows_shared_total
    rebuilt = await front.fork(parent, step=step, seed=99)
    assert np.array_equal(await front.tokens(rebuilt), tokens)
    assert engine.stats().rows_shared_total == before


@pytest.mark.anyio
async def test_the_pictures_of_a_variation_compute_what_they_keep_once(front: Front, engine: Engine) -> None:
    source: dict[str, Any] = {"job": await generate(front), "image": 0}
    await front.service.result(source["job"])
    rows = []
    for n in (1, 3):
        before = engine.stats()
        fields = {"class": 1, "keep": 0.75, "seed": 3, "n": n, "steps": 4}
        job = await front.post("/v1/vary", json=fields | {"source": source})
        await front.service.result(job)
        after = engine.stats()
        assert after.pages_copied_total - before.pages_copied_total <= 2 * (n - 1)  # one a picture and branch
        rows.append(after.rows_shared_total - before.rows_shared_total)
    # The condition and 48 known tokens, in two branches, for the two pictures beyond the first.
    assert rows == [0, 2 * 2 * 49]


@pytest.mark.anyio
async def test_a_forks_picture_tells_its_ancestors_and_is_drawn_again_from_them(front: Front, folder: Path) -> None:
    parent = await generate(front)
    await front.service.result(parent)
    child = await front.fork(parent, step=3, seed=6)
    await front.service.result(child)
    grandchild = await front.fork(child, step=6, seed=7)
    [made] = (await front.service.result(grandchild)).images
    told = recipe.read(recipe.text_of(await front.service.blobs.get(made.blob) or b""))
    assert told.forks == ((3, 5), (6, 6))
    tokens, _ = redraw(Engine.load(folder, device="cpu", config=EngineConfig(batch_invariant=True)), told)
    assert np.array_equal(tokens, made.tokens())


@pytest.mark.anyio
@pytest.mark.parametrize("feather", [0, 2])
async def test_a_fork_of_an_inpainting_keeps_the_uploads_pixels(front: Front, feather: int) -> None:
    image = noise(20, 26, seed=2)
    parent = await inpaint(front, feather=feather)
    await front.service.result(parent)
    child = await front.fork(parent, step=3)
    await front.service.result(child)
    again = await front.fork(child, step=5)
    await front.service.result(again)
    for job_id in (child, again):
        shown = await front.pixels(job_id)
        assert np.array_equal(shown[MASK == 0], image[MASK == 0])
        assert not np.array_equal(shown, image)


@pytest.mark.anyio
@pytest.mark.parametrize(("family", "count"), [("llamagen", 7), ("par", 4 + 3 * 4)])
async def test_pictures_in_a_fixed_order_fork_as_well(redis_url: str, tmp_path: Path, family: str, count: int) -> None:
    engine = Engine.load(
        random_folder(tmp_path / family, family=family), device="cpu", config=EngineConfig(batch_invariant=True)
    )
    settings = Settings(redis_url=redis_url, _env_file=None)
    async with serving(redis_url, engine, grace=10) as service:
        with running_api(settings) as api:
            front = Front(api.client, service)
            await asyncio.to_thread(api.wait_for_models, lambda names: "random" in names)
            parent = await front.post("/v1/generate", json={"class": 1, "seed": 5})
            tokens = await front.tokens(parent)
            child = await front.fork(parent, step=7, seed=99)
            shared = await front.first(parent, count)  # in 7 steps
            drawn = await front.tokens(child)
            assert all(drawn.flat[position] == token for position, token in shared.items())
            assert not np.array_equal(drawn, tokens)
            same = await front.fork(parent, step=7, seed=5)
            assert np.array_equal(await front.tokens(same), tokens)
