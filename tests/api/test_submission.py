"""From a request to its job: when others do the same at once, when there is no room, when Redis hiccups."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from service.jobs import NewJob, Queue, QueueFull, Submitted
from service.jobs.messages import State
from service.settings import Settings
from service.tasks.pictures.errors import Limits
from service.tasks.pictures.images import decode_image
from tests.support.api import Api, noise, png, running_api, spec_of
from tests.support.queue import decoded
from tests.support.waiting import eventually

MASK = np.zeros((24, 24), dtype=np.uint8)
MASK[:, 12:] = 255


def inpaint(api: Api, key: str, picture: np.ndarray, **fields: str) -> httpx.Response:
    files = {"image": png(picture), "mask": png(MASK)}
    return api.client.post("/v1/inpaint", data=fields, files=files, headers={"Idempotency-Key": key})


def at_once(monkeypatch: pytest.MonkeyPatch, second: Callable[..., Any] | None = None) -> None:
    """Two submissions meet when the uploads of both are stored; the second one to come may find something else."""
    real, arrived, both = Queue.submit, [], asyncio.Event()

    async def submit(self: Queue, job: NewJob) -> Submitted:
        arrived.append(job)
        if len(arrived) == 2:
            both.set()
            if second is not None:
                await asyncio.sleep(0.2)
                return second()
        await both.wait()
        return await real(self, job)

    monkeypatch.setattr(Queue, "submit", submit)


def post_both(api: Api, key: str, pictures: list[np.ndarray]) -> list[httpx.Response]:
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda picture: inpaint(api, key, picture), pictures))


def stored(api: Api) -> int:
    return api.queue(lambda _, __, blobs: blobs.bytes_used())


def full() -> Submitted:
    raise QueueFull("1000 jobs wait already")


@pytest.mark.parametrize(("second", "refusal"), [(None, (422, "key_reused")), (full, (503, "queue_full"))])
def test_two_requests_with_one_key_never_mix(
    api: Api, monkeypatch: pytest.MonkeyPatch, second: Callable[..., Any] | None, refusal: tuple[int, str]
) -> None:
    before = stored(api)
    pictures = [noise(24, 24, seed=seed) for seed in (1, 2)]
    at_once(monkeypatch, second)
    responses = post_both(api, f"mixed-{refusal[1]}", pictures)
    [winner] = [i for i, response in enumerate(responses) if response.status_code == 202]
    lost = responses[1 - winner]
    assert (lost.status_code, lost.json()["code"]) == refusal

    claim = api.claim()
    image, mask = (api.blob(spec_of(claim).blobs[name]) for name in ("image", "mask"))
    assert image is not None
    assert mask is not None
    assert np.array_equal(decode_image(image, "image", Limits(10**6, 10**4)), pictures[winner])
    assert stored(api) - before == len(image) + len(mask)
    api.queue(lambda q, _, __: q.finish(claim.id, 1, 1, state="failed", event="failed", data={}))
    assert stored(api) == before


def test_the_same_request_twice_at_once_is_one_job(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored(api)
    at_once(monkeypatch)
    first, second = post_both(api, "same", [noise(24, 24)] * 2)
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]
    claim = api.claim()
    uploads = [api.blob(spec_of(claim).blobs[name]) for name in ("image", "mask")]
    assert stored(api) - before == sum(len(upload or b"") for upload in uploads)
    api.draw(claim)


def test_a_submission_sent_twice_keeps_its_uploads(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Queue.submit

    async def reply_lost(self: Queue, job: NewJob) -> Submitted:
        await real(self, job)
        return await real(self, job)  # as redis-py does

    monkeypatch.setattr(Queue, "submit", reply_lost)
    assert inpaint(api, "twice", noise(24, 24)).status_code == 202
    claim = api.claim()
    assert api.queue(lambda _, __, blobs: blobs.get(spec_of(claim).blobs["image"])) is not None
    api.draw(claim)


def test_a_job_with_an_idempotency_key_is_known_to_have_expired(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {"json": {"class": 1}, "headers": {"Idempotency-Key": "long-ago"}}
    monkeypatch.setattr("service.api.create_job.time.time", lambda: 2.0**30)
    job = api.client.post("/v1/generate", **sent).json()
    monkeypatch.undo()
    api.draw(api.claim())
    assert api.client.post("/v1/generate", **sent).json()["id"] == job["id"]
    prefix = api.settings.queue_config.prefix

    async def expire(queue: Queue, _: Any, __: Any) -> list[int]:
        """As Redis does after ARPG_RESULT_TTL. Returns how many milliseconds were left."""
        key = f"{prefix}job:{job['id']}"
        keys = key, decoded(await queue.redis.hget(key, "repeats"))
        left = [await queue.redis.pttl(key) for key in keys]
        await queue.redis.delete(*keys)
        return left

    of_job, of_key = api.queue(expire)
    assert of_job > 0
    assert abs(of_key - of_job) < 1000
    for path in ("", "/events", "/images/0"):
        gone = api.client.get(f"/v1/jobs/{job['id']}{path}")
        assert (gone.status_code, gone.json()["code"]) == (410, "expired")
    assert api.client.post("/v1/generate", **sent).json()["id"] != job["id"]
    api.empty()


def test_who_waits_for_the_end_alone_makes_the_hub_read_no_events(api: Api) -> None:
    hub = api.app.services.hub
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(api.client.post, "/v1/generate", json={}, headers={"Accept": "image/png"})
        assert eventually(lambda: hub._endings._waiting != {})
        claim = api.claim()
        api.publish(claim, 1, "started", {"attempt": 1})
        assert hub._followed == {}
        api.draw(claim)
        assert waiting.result(30).status_code == 200
    assert hub._endings._waiting == {}


def test_results_that_would_fill_the_store_are_refused_by_field(redis_socket: Path) -> None:
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="small", blob_bytes=2**20, max_body_bytes=2**21, _env_file=None
    )
    with running_api(settings) as api:
        api.show_card()

        def post(side: int, n: int) -> httpx.Response:
            mask = np.zeros((side, side), dtype=np.uint8)
            mask[1:, 1:] = 255
            mask[0:9, 0:9] = 0
            files = {"image": png(np.zeros((side, side, 3), dtype=np.uint8)), "mask": png(mask)}
            return api.client.post("/v1/inpaint", data={"n": str(n)}, files=files)

        assert post(200, 2).status_code == 202  # 240 kB of 262 kB
        for side, n, status, field in ((200, 3, 422, "n"), (300, 1, 413, "image")):
            response = post(side, n)
            [error] = response.json()["errors"]
            assert (response.status_code, error["field"], error["code"]) == (status, field, "too_large")
        assert api.queue(lambda q, _, __: q.depth("hand")) == 1
        api.empty()


def test_a_wait_outlasts_a_hiccup_of_redis(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    real, hiccup = Queue.state, threading.Event()

    async def state(self: Queue, job_id: str) -> State | None:
        if not hiccup.is_set():
            hiccup.set()
            raise redis.ConnectionError("away")
        return await real(self, job_id)

    monkeypatch.setattr(Queue, "state", state)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(api.client.post, "/v1/generate", json={}, headers={"Accept": "image/png"})
        assert hiccup.wait(30)
        api.draw(api.claim())
        response = waiting.result(30)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
