"""What goes wrong in a worker fails whom it concerns, and nobody else."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from prometheus_client import generate_latest

from engine.core.engine import Engine, EngineConfig
from engine.request import Request
from service.jobs import NewJob, Queue, connect
from service.jobs.spec import ClassCondition, encode
from tests.support.processes import REPOSITORY
from tests.support.waiting import soon
from tests.support.worker import CONFIG, Service, job, png, serving


@pytest.mark.anyio
async def test_cancel_of_a_running_job_frees_its_pages(service: Service, engine: Engine, slowly: None) -> None:
    await service.submit("a", steps=256, n=3)
    await service.seen("a", "tokens")
    assert engine.stats().pages_used > 0
    assert await service.queue.cancel("a") == "requested"
    events = await service.events("a")
    assert [event.name for event in events][-1] == "canceled"
    assert sum(len(e.json()["positions"]) for e in events if e.name == "tokens") < 3 * 64
    assert await soon(lambda: not engine.stats().pages_used)
    assert engine.stats().steps_total < 50  # it would have taken 64
    await service.submit("b")
    assert len((await service.result("b")).images) == 1
    assert await service.counted(1, "requests_total", model="random", task="generate", outcome="canceled")


@pytest.mark.anyio
async def test_cancelling_every_running_job_leaves_the_exported_gauges_at_0(
    redis_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the outcomes add up to what was accepted."""
    config = EngineConfig(cache_tokens=16 * 2 * 64, page_size=16, check_every_step=True)
    engine = Engine.load(folder, device="cpu", config=config)
    run = engine._runner.run

    def slow(drawings: Any) -> Any:
        time.sleep(0.02)
        return run(drawings)

    monkeypatch.setattr(engine._runner, "run", slow)
    async with serving(redis_url, engine, grace=5) as service:

        def exported() -> dict[str, float]:
            lines = generate_latest(service.metrics.registry).decode().splitlines()
            return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

        def gauges() -> list[float]:
            names = ("num_requests_running", "num_requests_waiting", "kv_pages_used")
            return [exported()[f'arpg_{name}{{model="random"}}'] for name in names]

        await service.submit("done", steps=2)
        assert await service.result("done")
        for number in range(20):
            await service.submit(f"j{number}", steps=64, n=1 + number % 2, guidance_scale=1.0)
        assert await soon(lambda: gauges()[0] == 30)  # pictures; there is room for 32 without guidance
        for number in range(20):
            assert await service.queue.cancel(f"j{number}") == "requested"
        for number in range(20):
            assert (await service.events(f"j{number}"))[-1].name == "canceled"
        assert await soon(lambda: gauges() == [0, 0, 0])
        outcomes = {
            name: value for name, value in exported().items() if name.startswith("arpg_requests_total{") and value
        }
        label = 'arpg_requests_total{{model="random",outcome="{}",task="generate"}}'
        assert outcomes == {label.format("succeeded"): 1, label.format("canceled"): 20}


@pytest.mark.anyio
async def test_a_job_stopped_while_its_upload_is_encoded_draws_nothing(
    service: Service, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoding, go_on = engine.codec.encode, threading.Event(), threading.Event()

    def slow(image: np.ndarray) -> np.ndarray:
        encoding.set()
        go_on.wait(10)
        return encode(image)

    finish = service.queue.finish

    async def late(*arguments: Any, **more: Any) -> Any:
        go_on.set()
        await asyncio.sleep(0.3)  # time enough to go on drawing
        return await finish(*arguments, **more)

    monkeypatch.setattr(engine.codec, "encode", slow)
    monkeypatch.setattr(service.queue, "finish", late)
    await service.blobs.put("a/image", png(np.zeros((16, 16, 3), dtype=np.uint8)))
    await service.blobs.put("a/mask", png(np.ones((16, 16), dtype=bool)))
    await service.submit("a", task="inpaint", image="a/image", mask="a/mask", n=3, steps=64)
    assert await asyncio.to_thread(encoding.wait, 10)
    assert await service.queue.cancel("a") == "requested"
    assert (await service.events("a"))[-1].name == "canceled"
    assert engine.stats().steps_total == 0
    assert engine.idle


@pytest.mark.anyio
async def test_a_job_that_cannot_be_refused_now_holds_up_no_other(
    redis_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Queue.finish
    away: list[Any] = []

    async def failing(self: Queue, job_id: str, *arguments: Any, **more: Any) -> Any:
        if job_id == "nonsense" and not away:
            away.append(job_id)
            raise redis.ConnectionError("away")
        return await finish(self, job_id, *arguments, **more)

    monkeypatch.setattr(Queue, "finish", failing)
    client = connect(redis_url)
    nonsense = {"version": 1, "n": "x", "task": "generate", "path": "/somewhere"}
    await Queue(client, CONFIG).submit(NewJob(id="nonsense", model="random", cost=64, spec=json.dumps(nonsense)))
    await Queue(client, CONFIG).submit(NewJob(id="good", model="random", cost=64, spec=encode(job(engine.model))))
    await client.aclose()
    async with serving(redis_url, engine, grace=5) as service:
        assert await service.result("good")
        found = await service.queue.job("good")
        assert found is not None
        assert found.attempt == 1
        error = (await service.events("nonsense"))[-1].json()["error"]
        assert error["code"] == "invalid_payload"
        assert "TypeError" not in error["message"]
        assert await service.counted(1, "requests_total", model="random", task="generate", outcome="failed")


@pytest.mark.anyio
async def test_the_engines_series_are_there_from_the_start(redis_url: str, engine: Engine) -> None:
    async with serving(redis_url, engine, grace=5) as service:
        await asyncio.sleep(0.05)
        names = ("kv_pages_used", "kv_pages", "num_requests_running", "num_requests_waiting")

        def told(name: str, **labels: str) -> float | None:
            return service.metrics.registry.get_sample_value(f"arpg_{name}", labels)

        assert [told(name, model="random") for name in names] == [0, 24, 0, 0]
        # rate() sees the first event of a series only if the series was there before.
        for task in engine.model.tasks:
            for outcome in ("succeeded", "failed", "canceled"):
                assert told("requests_total", model="random", task=task, outcome=outcome) == 0
        counted = (
            "images_total",
            "generation_tokens_total",
            "lease_takeovers_total",
            "time_to_first_token_seconds_count",
        )
        assert [told(name, model="random") for name in counted] == [0, 0, 0, 0]
        assert told("job_failures_total", model="random", code="out_of_memory") == 0
        card = engine.model
        about = {"family": card.family, "weights": card.weights, "tokenizer": card.tokenizer}
        assert told("model_info", model="random", **about) == 1
        assert told("kv_cache_bytes", model="random") == engine.kv_cache_bytes > 0
        assert (told("worker_memory_bytes", device="cpu") or 0) > 50 * 2**20  # torch alone takes more


@pytest.mark.anyio
async def test_failing_jobs_fail_alone(service: Service) -> None:
    await service.submit("good", steps=32)
    await service.submit("missing", task="inpaint", image="missing/image", mask="missing/mask")
    await service.blobs.put("damaged/image", b"no picture")
    await service.blobs.put("damaged/mask", png(np.ones((4, 4), dtype=bool)))
    await service.submit("damaged", task="inpaint", image="damaged/image", mask="damaged/mask")
    strange = (await service.plan()).model_copy(update={"condition": ClassCondition(label=99, name="?")})
    await service.queue.submit(NewJob(id="strange", model="random", cost=64, spec=encode(strange)))
    await service.queue.submit(NewJob(id="nonsense", model="random", cost=64, spec='{"version": 1, "n": "x"}'))
    await service.queue.submit(NewJob(id="newer", model="random", cost=64, spec='{"version": 2, "task": "generate"}'))
    codes = {}
    for job_id in ("missing", "damaged", "strange", "nonsense", "newer"):
        end = (await service.events(job_id))[-1]
        found = await service.queue.job(job_id)
        assert found is not None
        assert (end.name, found.state) == ("failed", "failed")
        assert end.json()["error"] == found.error
        codes[job_id] = end.json()["error"]["code"]
    assert codes == {
        "missing": "upload_missing",
        "damaged": "upload_damaged",
        "strange": "invalid_request",
        "nonsense": "invalid_payload",
        "newer": "unsupported_job_version",
    }
    assert await service.result("good")


LEAVING_A_HUNG_CODEC = """
import asyncio, sys, threading
from pathlib import Path
from engine.core.engine import Engine, EngineConfig
from engine.core.pages import IntegrityError
from service.worker.worker import WorkerFailed
from tests.support.worker import serving

async def main():
    engine = Engine.load(Path(sys.argv[1]), device="cpu", config=EngineConfig(cache_tokens=2048))
    decoding = threading.Event()

    def hang(tokens):
        decoding.set()
        threading.Event().wait()

    def broken(drawings):
        raise IntegrityError("page 3 is held twice")

    engine.codec.decode_many = hang
    async with serving(sys.argv[2], engine, grace=5) as service:
        await service.submit("a", steps=1)
        assert await asyncio.to_thread(decoding.wait, 10)
        engine._runner.run = broken
        await service.submit("b")
        try:
            await service.running
        except WorkerFailed:
            print("failed", flush=True)

asyncio.run(main())
"""


def test_a_hung_codec_does_not_keep_the_process(redis_url: str, folder: Path) -> None:
    command = [sys.executable, "-c", LEAVING_A_HUNG_CODEC, str(folder), redis_url]
    ended = subprocess.run(command, cwd=REPOSITORY, timeout=60, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "failed\n"), ended.stderr


@pytest.mark.anyio
async def test_a_request_that_the_engine_trips_over_fails_alone(
    service: Service, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = engine.add

    def tripping(request: Request) -> int:
        if request.seed == 13:
            raise KeyError("/somewhere/on/disk")
        return add(request)

    monkeypatch.setattr(engine, "add", tripping)
    await service.submit("a", seed=13)
    await service.submit("b")
    error = (await service.events("a"))[-1].json()["error"]
    assert (error["code"], "job a" in error["message"], "disk" in error["message"]) == ("internal_error", True, False)
    assert await service.result("b")


@pytest.mark.anyio
async def test_a_job_that_had_ended_otherwise_is_not_counted_as_drawn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, answers = service.queue.finish, []

    async def late(job_id: str, attempt: int, sequence: int, **end: Any) -> Any:
        await finish(job_id, attempt, sequence, state="canceled", event="canceled", data={})
        answers.append(await finish(job_id, attempt, sequence, **end))
        return answers[-1]

    monkeypatch.setattr(service.queue, "finish", late)
    await service.submit("a")
    assert (await service.events("a"))[-1].name == "canceled"
    assert await soon(lambda: not service.worker._tasks())
    assert answers == ["already"]
    assert service.sample("requests_total", model="random", task="generate", outcome="succeeded") == 0
    assert service.sample("images_total", model="random") == 0
