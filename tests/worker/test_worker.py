"""The worker between a real Valkey and a real engine: what a job's watcher sees, and what is kept."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.core.engine import Engine
from engine.editing.masks import composite, fit, fixed_cells, fixed_tokens
from service.jobs import NewJob, Queue, connect
from service.jobs.result import StoredImage
from service.jobs.spec import encode
from service.tasks.planning import image_seeds
from tests.support.queue import stored_job
from tests.support.waiting import soon
from tests.support.worker import CONFIG, Service, alone, job, pixels, png, serving


@pytest.mark.anyio
async def test_a_picture_from_submission_to_png(service: Service, folder: Path, engine: Engine) -> None:
    await service.submit("a", steps=8)
    events = await service.events("a")
    names = [event.name for event in events]
    assert names[:2] == ["queued", "started"]
    assert set(names[2:-1]) == {"tokens"}
    assert names[-1] == "completed"
    fingerprints = {"tokenizer": engine.model.tokenizer, "weights": engine.model.weights}
    started = {"attempt": 1, "images": 1, "grid": [8, 8], "steps": 8, "known": 0, "kept": []}
    assert events[1].json() == started | fingerprints
    told: dict[Any, Any] = {}
    for event in events[2:-1]:
        told |= dict(zip(event.json()["positions"], event.json()["tokens"], strict=True))
    last = events[-2].json()
    assert (last["step"], last["steps"], last["n_done"], last["n_total"]) == (8, 8, 64, 64)

    (expected,) = alone(folder, steps=8)
    assert [told[position] for position in range(64)] == expected.ravel().tolist()
    result = await service.result("a")
    (image,) = result.images
    assert np.array_equal(image.tokens(), expected)
    assert result.usage == {"steps": 8, "tokens_drawn": 64, "tokens_known": 0}
    timings = result.timings
    stages = [timings[f"{stage}_seconds"] for stage in ("queue", "load", "draw", "decode", "store")]
    assert set(timings) == {
        f"{stage}_seconds" for stage in ("queue", "load", "draw", "decode", "store", "first_tokens")
    }
    assert all(0 <= seconds < 20 for seconds in timings.values())
    assert sum(stages[:2]) <= timings["first_tokens_seconds"] <= sum(stages[:3])
    ended = await stored_job(service.queue, "a")
    assert ended.finished_at is not None
    assert sum(stages) == pytest.approx(ended.finished_at - ended.created_at, abs=5)
    assert events[-1].json()["images"] == [{"index": 0, "seed": 5, "width": 16, "height": 16}]

    data = await service.blobs.get(image.blob)
    assert data is not None
    picture = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(picture), engine.codec.decode(expected))
    recipe = json.loads(picture.text["arpg"])  # type: ignore[attr-defined]
    assert {"model": "random", "class_label": 1, "seed": 5, "steps": 8, "schedule": "arccos"}.items() <= recipe.items()


@pytest.mark.anyio
async def test_a_worker_reports_what_its_engine_does(service: Service, engine: Engine, slowly: None) -> None:
    await service.submit("a", steps=64)

    async def draws() -> bool:
        load = (await service.cards.loads()).get("random", {})
        return load.get("pictures") == 1 and load["tokens_per_second"] > 0 and load["kv_pages_used"] > 0

    assert await soon(draws)
    assert (await service.cards.loads())["random"]["kv_pages"] == engine.stats().pages_total
    await service.result("a")

    async def rests() -> bool:
        load = (await service.cards.loads())["random"]
        return not (load["pictures"] or load["tokens_per_second"] or load["kv_pages_used"])

    assert await soon(rests)


@pytest.mark.anyio
async def test_a_job_whose_start_deadline_is_over_is_not_drawn_but_counted(redis_url: str, engine: Engine) -> None:
    client = connect(redis_url)
    late = NewJob(id="late", model="random", cost=1, spec=encode(job(engine.model)), start_seconds=0.001)
    await Queue(client, CONFIG).submit(late)
    await asyncio.sleep(0.01)
    await client.aclose()
    async with serving(redis_url, engine) as service:
        assert [event.name for event in await service.events("late")] == ["queued", "failed"]
        assert await service.counted(1, "job_failures_total", model="random", code="start_timeout")
        assert await service.counted(1, "requests_total", model="random", task="generate", outcome="failed")


@pytest.mark.anyio
async def test_the_stored_result_has_no_list_of_tokens_and_still_what_was_drawn(service: Service, folder: Path) -> None:
    await service.submit("a", n=2, steps=4)
    await service.result("a")
    found = await service.queue.job("a")
    assert found is not None
    assert found.result is not None
    for stored, expected in zip(found.result["images"], alone(folder, n=2, steps=4), strict=True):
        assert [name for name, value in stored.items() if isinstance(value, list)] == ["grid"]
        assert np.array_equal(StoredImage.model_validate(stored).tokens(), expected)


@pytest.mark.anyio
async def test_many_unlike_jobs_at_once(service: Service, folder: Path) -> None:
    """More than the cache holds: they are claimed as room comes, and each draws what it draws alone."""
    wanted: dict[str, dict[str, Any]] = {
        f"j{i}": {
            "seed": i,
            "steps": 3 + i,
            "class": i % 4,
            "n": 1 + i % 3,
            "guidance_scale": 1.0 if i % 4 == 0 else 3.0,
        }
        for i in range(9)
    }
    for job_id, fields in wanted.items():
        await service.submit(job_id, **fields)
    results = await asyncio.gather(*(service.result(job_id) for job_id in wanted))
    for result, fields in zip(results, wanted.values(), strict=True):
        assert [image.seed for image in result.images] == list(image_seeds(fields["seed"], fields["n"]))
        assert [image.index for image in result.images] == list(range(fields["n"]))
        for image, expected in zip(result.images, alone(folder, **fields), strict=True):
            assert np.array_equal(image.tokens(), expected)
    assert await service.counted(9, "requests_total", model="random", task="generate", outcome="succeeded")
    assert await service.counted(sum(p["n"] for p in wanted.values()), "images_total", model="random")
    assert await service.counted(64 * sum(p["n"] for p in wanted.values()), "generation_tokens_total", model="random")
    assert service.sample("step_rows_count", model="random") > 0
    assert await service.counted(9, "request_queue_time_seconds_count", model="random")


@pytest.mark.anyio
async def test_ingeneration_keeps_what_the_mask_keeps(service: Service, folder: Path, engine: Engine) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)  # no multiple of anything
    mask = np.zeros((37, 53), dtype=bool)
    mask[5:20, 10:31] = True
    await service.blobs.put("a/image", png(image))
    await service.blobs.put("a/mask", png(mask))
    # More steps than there are tokens to draw: one token a step.
    fields = {"task": "inpaint", "image": "a/image", "mask": "a/mask", "n": 2, "previews": 2, "steps": 60}
    await service.submit("a", **fields)
    result = await service.result("a")

    snapped = ~fixed_cells(mask, (8, 8))
    assert np.array_equal(~(await service.spec("a")).fixed_cells, snapped)
    kept = engine.codec.encode(fit(image, (16, 16)))
    drawn = alone(folder, fixed_tokens(kept, ~snapped), **fields)
    for made, expected in zip(result.images, drawn, strict=True):
        tokens = made.tokens()
        assert np.array_equal(tokens[~snapped], kept[~snapped])
        assert np.array_equal(tokens, expected)
        assert (made.width, made.height) == (53, 37)
        shown = pixels(await service.blobs.get(made.blob))
        assert np.array_equal(shown[~mask], image[~mask])
        assert np.array_equal(shown, composite(image, engine.codec.decode(tokens), mask, smooth=True))
    drawn, known = 2 * snapped.sum(), 2 * (~snapped).sum()
    assert result.usage == {"steps": snapped.sum(), "tokens_drawn": drawn, "tokens_known": known}
    started = await service.seen("a", "started")
    assert started.json()["known"] == (~snapped).sum()
    assert await service.blobs.get("a/image") is None  # no longer needed, and its bytes are given back
    mask_png = await service.blobs.get("a/mask")  # a fork needs it
    assert mask_png is not None
    held = [mask_png, *[await service.blobs.get(made.blob) for made in result.images]]
    assert await service.blobs.bytes_used() == sum(len(png or b"") for png in held)


@pytest.mark.anyio
async def test_previews_show_what_is_drawn_and_grey_elsewhere(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = []

    def lossless(shown: np.ndarray, kind: str, quality: int) -> bytes:
        kinds.append(kind)
        return png(shown)

    monkeypatch.setattr("service.worker.preview.encode", lossless)  # a JPEG smears the grey
    await service.submit("a", steps=64, previews=16)
    events = await service.events("a")
    previews = [event.json() for event in events if event.name == "preview"]
    assert previews
    assert all(p["step"] % 16 == 0 and p["format"] == "jpeg" and p["image_index"] == 0 for p in previews)
    assert set(kinds) == {"jpeg"}
    order = [position for event in events if event.name == "tokens" for position in event.json()["positions"]]
    for preview in previews:
        undrawn = np.ones(64, dtype=bool)
        undrawn[order[: preview["step"]]] = False  # 64 steps: one token each
        cells = np.kron(undrawn.reshape(8, 8), np.ones((2, 2), dtype=bool))
        shown = pixels(base64.b64decode(preview["b64_json"]))
        assert (shown[cells] == 128).all()
        coloured = (shown != 128).any(-1).reshape(8, 2, 8, 2).any((1, 3)).ravel()
        assert coloured[~undrawn].all()
