"""A worker between a real Valkey and a real engine, for the tests that watch it."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from prometheus_client import CollectorRegistry

from engine.core.engine import Engine, EngineConfig
from engine.noise import image_seed
from engine.request import Request
from service.jobs import BlobStore, Event, EventHub, NewJob, Queue, QueueConfig, WorkerCards, connect
from service.metrics import Metrics
from service.settings import Settings
from service.tasks.inputs import request_of
from service.worker import Worker
from tests.support.queue import decoded
from tests.support.waiting import PATIENCE, soon

CONFIG = QueueConfig(lease_seconds=1.0)


@dataclass
class Service:
    """A worker under way, and the front end's side of the queue."""

    worker: Worker
    engines: dict[str, Engine]  # by the names of their models
    queue: Queue
    blobs: BlobStore
    cards: WorkerCards
    hub: EventHub
    metrics: Metrics
    stop: asyncio.Event
    running: asyncio.Task[None]

    async def submit(self, job_id: str, **fields: Any) -> None:
        payload = job(**fields)
        blobs = tuple(payload[name] for name in ("image", "mask") if payload[name])
        template = request_of(payload, 0, {})
        if payload["windowed"]:
            template = replace(template, grid=None)
        cost = self.engines[payload["model"]].cost(template) * payload["n"]
        await self.queue.submit(NewJob(id=job_id, model=payload["model"], cost=cost, payload=payload, blobs=blobs))

    async def events(self, job_id: str) -> list[Event]:
        async with asyncio.timeout(PATIENCE):
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
        async with asyncio.timeout(PATIENCE), contextlib.aclosing(self.hub.watch(job_id)) as events:
            async for event in events:
                if event.name == name:
                    return event
        raise AssertionError(f"{job_id} ended without {name}")

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"arpg_{name}", labels) or 0.0

    async def counted(self, wanted: float, name: str, **labels: str) -> bool:
        """Whether the series has this value: an end is counted after the queue has told it to everybody."""
        await soon(lambda: self.sample(name, **labels) >= wanted)
        return self.sample(name, **labels) == wanted


def job(**fields: Any) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "task": "generate", "model": "random", "class_label": 1, "class_name": "class 1", "n": 1, "seed": 5,
        "steps": 8, "schedule": "arccos", "guidance_scale": 4.0, "guidance_schedule": "linear",
        "guidance_interval": None, "content_attention": "blockwise", "temperature": 1.0, "top_k": 0, "top_p": 1.0,
        "order": None, "previews": 0, "image": None, "mask": None, "feather": 0, "seamless": True, "format": "png",
        "quality": 90, "windowed": False,
    } | fields  # fmt: skip
    return {"seeds": [image_seed(payload["seed"], i) for i in range(payload["n"])]} | payload


@contextlib.asynccontextmanager
async def serving(
    redis_url: str, *engines: Engine, config: QueueConfig = CONFIG, **settings: Any
) -> AsyncIterator[Service]:
    client, blocking = connect(redis_url), connect(redis_url, blocking=True)
    queue, blobs, cards = Queue(client, config), BlobStore(client, config), WorkerCards(client, config)
    hub, metrics, stop = EventHub(blocking, config), Metrics(CollectorRegistry()), asyncio.Event()
    await hub.start()
    made = Worker(engines, queue, blobs, cards, metrics, Settings(**settings))
    running = asyncio.create_task(made.run(stop))
    try:
        models = {engine.model.name: engine for engine in engines}
        yield Service(made, models, queue, blobs, cards, hub, metrics, stop, running)
    finally:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)
        await hub.close()
        await client.aclose()
        await blocking.aclose()


async def suspects(queue: Queue, model: str) -> list[str]:
    """The jobs that wait to be drawn with nothing beside them."""
    return [decoded(job_id) for job_id in await queue.redis.zrange(f"{queue.config.prefix}suspects:{model}", 0, -1)]


def alone(folder: Path, payload: dict[str, Any], known: dict[int, int] | None = None) -> list[np.ndarray]:
    """The pictures' tokens as the library draws them."""
    engine = Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=2048, batch_invariant=True))
    names = ("class_label", "steps", "guidance_scale", "temperature", "task")
    fields = {name: payload[name] for name in names if payload[name] is not None}
    seeds = [image_seed(payload["seed"], i) for i in range(payload["n"])]
    return engine.generate([Request(seed=seed, fixed_tokens=known or {}, **fields) for seed in seeds])


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def pixels(data: bytes | None) -> np.ndarray:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)))
