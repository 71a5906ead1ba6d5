"""The worker between a real Valkey and a real engine: what a job's watcher sees, and what is kept."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image
from prometheus_client import CollectorRegistry
from tiny import random_folder

from engine.engine import Engine, EngineConfig
from engine.inpainting import composite, fit, token_mask
from engine.noise import image_seed
from engine.pages import IntegrityError
from engine.request import Request
from service.metrics import Metrics
from service.queue import Blobs, Cards, Event, EventHub, NewJob, Queue, QueueConfig, connect
from service.settings import Settings
from service.worker import Worker, outages, pictures, worker
from service.worker.pictures import read_upload, request_of

CONFIG = QueueConfig(lease_seconds=1.0)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(folder: Path) -> Engine:
    # Room for three pictures with guidance; what each one draws does not depend on the crowd.
    config = EngineConfig(cache_tokens=3 * 2 * 64, page_size=16, check_every_step=True, batch_invariant=True)
    return Engine.load(folder, device="cpu", config=config)


@pytest.fixture
def slowly(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of at least 20 ms: there is time to interrupt."""
    run = engine._runner.run

    def slow(drawings: Any) -> Any:
        time.sleep(0.02)
        return run(drawings)

    monkeypatch.setattr(engine._runner, "run", slow)


@dataclass
class Service:
    """A worker under way, and the front end's side of the queue."""

    worker: Worker
    engine: Engine
    queue: Queue
    blobs: Blobs
    cards: Cards
    hub: EventHub
    metrics: Metrics
    stop: asyncio.Event
    running: asyncio.Task[None]

    async def submit(self, job_id: str, **fields: Any) -> None:
        payload = job(**fields)
        blobs = tuple(payload[name] for name in ("image", "mask") if payload[name])
        new = NewJob(id=job_id, model="random", cost=self.cost(payload), payload=payload, blobs=blobs)
        await self.queue.submit(new)

    def cost(self, payload: dict[str, Any]) -> int:
        return self.engine.cost(request_of(payload, 0, {})) * len(payload["seeds"])

    async def events(self, job_id: str) -> list[Event]:
        async with asyncio.timeout(20):
            return [event async for event in self.hub.watch(job_id)]

    async def result(self, job_id: str) -> dict[str, Any]:
        events = await self.events(job_id)
        assert events[-1].name == "completed", events[-1]
        found = await self.queue.job(job_id)
        assert found is not None
        assert found.result is not None
        return found.result

    async def seen(self, job_id: str, name: str) -> Event:
        """The first event of this name."""
        async with asyncio.timeout(20), contextlib.aclosing(self.hub.watch(job_id)) as events:
            async for event in events:
                if event.name == name:
                    return event
        raise AssertionError(f"{job_id} ended without {name}")

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"arpg_{name}", labels) or 0.0


def job(**fields: Any) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "task": "generate", "model": "random", "class_label": 1, "class_name": "class 1", "n": 1, "seed": 5,
        "steps": 8, "schedule": "arccos", "guidance_scale": 4.0, "guidance_schedule": "linear",
        "temperature": 1.0, "top_k": 0, "top_p": 1.0, "order": None, "previews": 0, "image": None,
        "mask": None, "feather": 0, "format": "png", "quality": 90,
    } | fields  # fmt: skip
    return {"seeds": [image_seed(payload["seed"], i) for i in range(payload["n"])]} | payload


@contextlib.asynccontextmanager
async def serving(redis_url: str, engine: Engine, **settings: Any) -> AsyncIterator[Service]:
    client, blocking = connect(redis_url), connect(redis_url, blocking=True)
    queue, blobs, cards = Queue(client, CONFIG), Blobs(client, CONFIG), Cards(client, CONFIG)
    hub, metrics, stop = EventHub(blocking, CONFIG), Metrics(CollectorRegistry()), asyncio.Event()
    await hub.start()
    made = Worker(engine, queue, blobs, cards, metrics, Settings(**settings))
    running = asyncio.create_task(made.run(stop))
    try:
        yield Service(made, engine, queue, blobs, cards, hub, metrics, stop, running)
    finally:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)
        await hub.close()
        await client.aclose()
        await blocking.aclose()


@pytest.fixture
async def service(redis_url: str, engine: Engine) -> AsyncIterator[Service]:
    async with serving(redis_url, engine, grace=10) as service:
        yield service
        service.stop.set()
        await asyncio.wait_for(service.running, 15)
        engine.check_integrity()
        assert engine.stats().pages_used == 0


def alone(folder: Path, payload: dict[str, Any], known: dict[int, int] | None = None) -> list[np.ndarray]:
    """The pictures' tokens as the library draws them."""
    engine = Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=2048, batch_invariant=True))
    names = ("class_label", "steps", "guidance_scale", "temperature", "task")
    fields = {name: payload[name] for name in names}
    seeds = [image_seed(payload["seed"], i) for i in range(payload["n"])]
    return engine.generate([Request(seed=seed, known=known or {}, **fields) for seed in seeds])


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def pixels(data: bytes | None) -> np.ndarray:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.anyio
async def test_a_picture_from_submission_to_png(service: Service, folder: Path, engine: Engine) -> None:
    await service.submit("a", steps=8)
    events = await service.events("a")
    names = [event.name for event in events]
    assert names[:2] == ["queued", "started"]
    assert set(names[2:-1]) == {"tokens"}
    assert names[-1] == "completed"
    assert events[1].data == {"attempt": 1, "images": 1, "grid": [8, 8], "steps": 8, "known": 0}
    told = {}
    for event in events[2:-1]:
        told |= dict(zip(event.data["positions"], event.data["tokens"], strict=True))
    last = events[-2].data
    assert (last["step"], last["steps"], last["n_done"], last["n_total"]) == (8, 8, 64, 64)

    (expected,) = alone(folder, job(steps=8))
    assert [told[position] for position in range(64)] == expected.ravel().tolist()
    result = await service.result("a")
    (image,) = result["images"]
    assert image["tokens"] == expected.tolist()
    assert result["usage"] == {"steps": 8, "tokens_drawn": 64, "tokens_known": 0}
    timings = result["timings"]
    assert set(timings) == {"queue_seconds", "draw_seconds", "decode_seconds", "first_tokens_seconds"}
    assert all(0 <= seconds < 20 for seconds in timings.values())
    assert events[-1].data["images"] == [{"index": 0, "seed": 5, "width": 16, "height": 16}]

    data = await service.blobs.get(image["blob"])
    assert data is not None
    picture = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(picture), engine.codec.decode(expected))
    recipe = json.loads(picture.text["arpg"])  # type: ignore[attr-defined]
    assert {"model": "random", "class_label": 1, "seed": 5, "steps": 8, "schedule": "arccos"}.items() <= recipe.items()


@pytest.mark.anyio
async def test_many_unlike_jobs_at_once(service: Service, folder: Path) -> None:
    """More than the cache holds: they are claimed as room comes, and each draws what it draws alone."""
    wanted = {
        f"j{i}": job(seed=i, steps=3 + i, class_label=i % 4, n=1 + i % 3, guidance_scale=1.0 if i % 4 == 0 else 3.0)
        for i in range(9)
    }
    for job_id, payload in wanted.items():
        await service.submit(job_id, **payload)
    results = await asyncio.gather(*(service.result(job_id) for job_id in wanted))
    for result, payload in zip(results, wanted.values(), strict=True):
        assert [image["seed"] for image in result["images"]] == payload["seeds"]
        assert [image["index"] for image in result["images"]] == list(range(payload["n"]))
        for image, expected in zip(result["images"], alone(folder, payload), strict=True):
            assert np.array_equal(image["tokens"], expected)
    assert service.sample("requests_total", task="generate", outcome="succeeded") == 9
    assert service.sample("images_total", model="random") == sum(p["n"] for p in wanted.values())
    assert service.sample("tokens_total", model="random") == 64 * sum(p["n"] for p in wanted.values())
    assert service.sample("step_rows_count", model="random") > 0
    assert service.sample("request_queue_seconds_count", model="random") == 9


@pytest.mark.anyio
async def test_inpainting_keeps_what_the_mask_keeps(service: Service, folder: Path, engine: Engine) -> None:
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

    snapped = token_mask(mask, (8, 8))
    assert np.array_equal(np.array(result["token_mask"], dtype=bool), snapped)
    kept = engine.codec.encode(fit(image, (16, 16)))
    upload = read_upload(png(image), png(mask), engine.model, engine.codec)
    drawn = alone(folder, job(**fields), upload.known)
    for made, expected in zip(result["images"], drawn, strict=True):
        tokens = np.array(made["tokens"])
        assert np.array_equal(tokens[~snapped], kept[~snapped])
        assert np.array_equal(tokens, expected)
        assert (made["width"], made["height"]) == (53, 37)
        shown = pixels(await service.blobs.get(made["blob"]))
        assert np.array_equal(shown[~mask], image[~mask])
        assert np.array_equal(shown, composite(image, engine.codec.decode(tokens), mask))
    drawn, known = 2 * snapped.sum(), 2 * (~snapped).sum()
    assert result["usage"] == {"steps": snapped.sum(), "tokens_drawn": drawn, "tokens_known": known}
    started = await service.seen("a", "started")
    assert started.data["known"] == (~snapped).sum()
    assert await service.blobs.get("a/image") is None  # no longer needed, and its bytes are given back
    assert await service.blobs.get("a/mask") is None
    held = [await service.blobs.get(made["blob"]) for made in result["images"]]
    assert await service.blobs.bytes_used() == sum(len(png or b"") for png in held)


@pytest.mark.anyio
async def test_previews_show_what_is_drawn_and_grey_elsewhere(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = []

    def lossless(shown: np.ndarray, kind: str, quality: int) -> bytes:
        kinds.append(kind)
        return png(shown)

    monkeypatch.setattr(pictures, "encode", lossless)  # a JPEG smears the grey
    await service.submit("a", steps=64, previews=16)
    events = await service.events("a")
    previews = [event.data for event in events if event.name == "preview"]
    assert previews
    assert all(p["step"] % 16 == 0 and p["format"] == "jpeg" and p["image_index"] == 0 for p in previews)
    assert set(kinds) == {"jpeg"}
    order = [position for event in events if event.name == "tokens" for position in event.data["positions"]]
    for preview in previews:
        undrawn = np.ones(64, dtype=bool)
        undrawn[order[: preview["step"]]] = False  # 64 steps: one token each
        cells = np.kron(undrawn.reshape(8, 8), np.ones((2, 2), dtype=bool))
        shown = pixels(base64.b64decode(preview["b64_json"]))
        assert (shown[cells] == 128).all()
        coloured = (shown != 128).any(-1).reshape(8, 2, 8, 2).any((1, 3)).ravel()
        assert coloured[~undrawn].all()


@pytest.mark.anyio
async def test_cancel_of_a_running_job_frees_its_pages(service: Service, engine: Engine, slowly: None) -> None:
    await service.submit("a", steps=256, n=3)
    await service.seen("a", "tokens")
    assert engine.stats().pages_used > 0
    assert await service.queue.cancel("a") == "requested"
    events = await service.events("a")
    assert [event.name for event in events][-1] == "canceled"
    assert sum(len(e.data["positions"]) for e in events if e.name == "tokens") < 3 * 64
    async with asyncio.timeout(5):
        while engine.stats().pages_used:  # noqa: ASYNC110 — another thread's state
            await asyncio.sleep(0.01)
    assert engine.stats().steps_total < 50  # it would have taken 64
    await service.submit("b")
    assert len((await service.result("b"))["images"]) == 1
    assert service.sample("requests_total", task="generate", outcome="canceled") == 1


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
    finish, away = Queue.finish, []

    async def failing(self: Queue, job_id: str, *arguments: Any, **more: Any) -> Any:
        if job_id == "nonsense" and not away:
            away.append(job_id)
            raise redis.ConnectionError("away")
        return await finish(self, job_id, *arguments, **more)

    monkeypatch.setattr(Queue, "finish", failing)
    client = connect(redis_url)
    nonsense = {"n": "x", "task": "generate", "path": "/somewhere"}
    await Queue(client, CONFIG).submit(NewJob(id="nonsense", model="random", cost=64, payload=nonsense))
    await Queue(client, CONFIG).submit(NewJob(id="good", model="random", cost=64, payload=job()))
    await client.aclose()
    async with serving(redis_url, engine, grace=5) as service:
        assert await service.result("good")
        found = await service.queue.job("good")
        assert found is not None
        assert found.attempt == 1
        error = (await service.events("nonsense"))[-1].data["error"]
        assert error["code"] == "invalid_payload"
        assert "TypeError" not in error["message"]
        assert service.sample("requests_total", task="generate", outcome="failed") == 1


@pytest.mark.anyio
async def test_the_engines_series_are_there_from_the_start(redis_url: str, engine: Engine) -> None:
    async with serving(redis_url, engine, grace=5) as service:
        await asyncio.sleep(0.05)
        names = ("kv_pages_used", "kv_pages_total", "requests_running", "requests_waiting")
        held = [service.metrics.registry.get_sample_value(f"arpg_{name}", {"model": "random"}) for name in names]
        assert held == [0, 24, 0, 0]


@pytest.mark.anyio
async def test_failing_jobs_fail_alone(service: Service) -> None:
    await service.submit("good", steps=32)
    await service.submit("missing", task="inpaint", image="missing/image", mask="missing/mask")
    await service.blobs.put("damaged/image", b"no picture")
    await service.blobs.put("damaged/mask", png(np.ones((4, 4), dtype=bool)))
    await service.submit("damaged", task="inpaint", image="damaged/image", mask="damaged/mask")
    await service.queue.submit(NewJob(id="strange", model="random", cost=64, payload=job(class_label=99)))
    await service.queue.submit(NewJob(id="nonsense", model="random", cost=64, payload={"n": "x"}))
    codes = {}
    for job_id in ("missing", "damaged", "strange", "nonsense"):
        end = (await service.events(job_id))[-1]
        found = await service.queue.job(job_id)
        assert found is not None
        assert (end.name, found.state) == ("failed", "failed")
        assert end.data["error"] == found.error
        codes[job_id] = end.data["error"]["code"]
    assert codes == {
        "missing": "upload_missing",
        "damaged": "upload_damaged",
        "strange": "invalid_request",
        "nonsense": "invalid_payload",
    }
    assert await service.result("good")


@pytest.mark.anyio
async def test_a_failing_step_fails_who_took_part_and_the_worker_goes_on(
    service: Service, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine._runner.run

    def out_of_memory(drawings: Any) -> Any:
        monkeypatch.setattr(engine._runner, "run", run)
        raise MemoryError("no room")

    monkeypatch.setattr(engine._runner, "run", out_of_memory)
    await service.submit("a", n=2)
    end = (await service.events("a"))[-1]
    assert (end.name, end.data["error"]["code"]) == ("failed", "engine_failed")
    assert "job a" in end.data["error"]["message"]
    assert "no room" not in json.dumps(end.data)  # that is for the log
    await service.submit("b")
    assert await service.result("b")
    # It drew since: another failure is again the first in a row.
    monkeypatch.setattr(engine._runner, "run", out_of_memory)
    await service.submit("c")
    assert (await service.events("c"))[-1].name == "failed"
    await service.submit("d")
    assert await service.result("d")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "failed"), [(RuntimeError("no kernel"), ["a"]), (IntegrityError("page 3 is held twice"), [])]
)
async def test_an_engine_that_always_fails_ends_the_worker_and_jobs_go_on_elsewhere(
    redis_url: str, engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, failed: list[str]
) -> None:
    def broken(drawings: Any) -> Any:
        raise error

    monkeypatch.setattr(engine._runner, "run", broken)
    async with serving(redis_url, engine, grace=5) as service:
        for job_id in failed:
            await service.submit(job_id)
            assert (await service.events(job_id))[-1].data["error"]["code"] == "engine_failed"
        await service.submit("b")
        with pytest.raises(worker.WorkerFailed, match=str(error)):
            await asyncio.wait_for(service.running, 5)
    other = Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=2048))
    async with serving(redis_url, other, grace=5) as service:
        assert await service.result("b")


LEAVING_A_HUNG_CODEC = """
import asyncio, sys, threading
import test_worker as t

async def main():
    engine = t.Engine.load(t.Path(sys.argv[1]), device="cpu", config=t.EngineConfig(cache_tokens=2048))
    decoding = threading.Event()

    def hang(tokens):
        decoding.set()
        threading.Event().wait()

    def broken(drawings):
        raise t.IntegrityError("page 3 is held twice")

    engine.codec.decode = hang
    async with t.serving(sys.argv[2], engine, grace=5) as service:
        await service.submit("a", steps=1)
        assert await asyncio.to_thread(decoding.wait, 10)
        engine._runner.run = broken
        await service.submit("b")
        try:
            await service.running
        except t.worker.WorkerFailed:
            print("failed", flush=True)

asyncio.run(main())
"""


def test_a_hung_codec_does_not_keep_the_process(redis_url: str, folder: Path) -> None:
    command = [sys.executable, "-c", LEAVING_A_HUNG_CODEC, str(folder), redis_url]
    ended = subprocess.run(command, cwd=Path(__file__).parent, timeout=25, capture_output=True, text=True)
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
    error = (await service.events("a"))[-1].data["error"]
    assert (error["code"], "job a" in error["message"], "disk" in error["message"]) == ("internal_error", True, False)
    assert await service.result("b")


@pytest.mark.anyio
async def test_a_broken_engine_ends_the_worker(redis_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("no such device")

    monkeypatch.setattr(engine, "step", broken)
    async with serving(redis_url, engine, grace=5) as service:
        await service.submit("a")
        assert (await service.events("a"))[-1].data["error"]["code"] == "engine_failed"
        with pytest.raises(worker.WorkerFailed, match="no such device"):
            await asyncio.wait_for(service.running, 5)


def test_a_worker_brings_no_torch_in() -> None:
    """Only the engine does: with another engine (or none) it is a light process."""
    code = "import service.worker, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


@pytest.mark.anyio
async def test_the_card_is_shown_and_withdrawn(redis_url: str, engine: Engine) -> None:
    async with serving(redis_url, engine, grace=5) as service:
        async with asyncio.timeout(5):
            while not (models := await service.cards.models()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert models["random"]["card"] == json.loads(json.dumps(engine.model.to_json()))
        assert models["random"]["capacity"] == {"cache_tokens": 3 * 2 * 64, "page_size": 16}
        palette = await service.cards.palette("random")
        assert palette is not None
        assert len(palette) == 64 * 4 * 4 * 3
        service.stop.set()
        await asyncio.wait_for(service.running, 5)
        assert await service.cards.models() == {}


@pytest.mark.anyio
async def test_a_stop_lets_running_jobs_finish_and_takes_no_more(redis_url: str, engine: Engine) -> None:
    async with serving(redis_url, engine, grace=15) as service:
        await service.submit("a", steps=64, n=3)
        await service.seen("a", "tokens")
        service.stop.set()
        await asyncio.sleep(0.1)
        await service.submit("b")
        await asyncio.wait_for(service.running, 20)
        assert (await service.events("a"))[-1].name == "completed"
        waiting = await service.queue.job("b")
        assert waiting is not None
        assert waiting.state == "queued"
    assert not service.worker._thread._thread.is_alive()


@pytest.mark.anyio
async def test_a_stop_without_grace_hands_back_what_another_worker_finishes(
    redis_url: str, engine: Engine, folder: Path
) -> None:
    async with serving(redis_url, engine, grace=0) as service:
        await service.submit("a", steps=200, n=3)
        await service.seen("a", "tokens")
        service.stop.set()
        await asyncio.wait_for(service.running, 10)
        released = await service.queue.job("a")
        assert released is not None
        assert (released.state, released.position) == ("queued", 0)
    other = Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=2048))
    async with serving(redis_url, other, grace=5) as service:
        result = await service.result("a")
        expected = alone(folder, job(steps=200, n=3))
        assert [image["tokens"] for image in result["images"]] == [tokens.tolist() for tokens in expected]
        attempts = [e.data["attempt"] for e in await service.events("a") if e.name == "started"]
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
    async with serving(redis_url, engine, grace=60) as service:
        await service.submit("a", steps=256, n=3)
        await service.seen("a", "tokens")
        service.stop.set()
        await asyncio.sleep(0.1)
        service.running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(service.running, 3)
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
    async with asyncio.timeout(5):
        while engine.stats().pages_used:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert engine.stats().steps_total < 50
    events = await service.queue.redis.xrange(f"{CONFIG.prefix}events:a")
    assert [entry_id for entry_id, _ in events if entry_id.startswith(b"2-")] == []  # not a word in the heir's name
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
    monkeypatch.setattr(worker, "HUNG_SECONDS", 0.3)
    monkeypatch.setattr(engine._runner, "run", lambda _: release.wait(20))
    monkeypatch.setattr(worker, "LEAVING_SECONDS", 0.2)
    async with serving(redis_url, engine, grace=5) as service:
        await service.submit("a")
        with pytest.raises(worker.WorkerFailed, match="a step has taken more than"):
            await asyncio.wait_for(service.running, 10)
        found = await service.queue.job("a")
        assert found is not None
        assert found.state == "running"  # its lease will end, and the attempt counts against it
    release.set()


@pytest.mark.anyio
async def test_the_engine_goes_on_while_redis_stalls(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = service.queue.publish
    stalled: list[int] = []

    async def stalling(publications: Any) -> Any:
        if not stalled and any(p.event == "tokens" for p in publications):
            stalled.append(1)
            async with asyncio.timeout(10):
                while service.engine.stats().running:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            raise ConnectionError("away")
        return await publish(publications)

    monkeypatch.setattr(service.queue, "publish", stalling)
    await service.submit("a", steps=32)
    events = await service.events("a")
    tokens = [event.data for event in events if event.name == "tokens"]
    assert len(tokens) == 2  # the one that was under way, and all the rest merged
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
