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

from engine.card import SETTINGS, ModelCard
from engine.core.engine import Engine, EngineConfig
from engine.editing.masks import fixed_cells
from service.jobs import BlobStore, Event, EventHub, NewJob, Queue, QueueConfig, WorkerCards, connect
from service.jobs.result import JobResult
from service.jobs.spec import ForkOrigin, JobSpec, decode, encode
from service.metrics import Metrics
from service.settings import Settings
from service.tasks import drawing
from service.tasks.planning import cost
from service.tasks.registry import TASKS
from service.tasks.task import PictureFacts
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
        """fields: those of the task, and the `client`."""
        client = fields.pop("client", "local")
        spec = await self.plan(**fields)
        engine = self.engines[spec.model]
        capacity = {"page_size": engine.config.page_size}
        blobs = tuple(spec.blobs.values())
        weighs = cost(spec, engine.model, capacity)
        await self.queue.submit(
            NewJob(
                id=job_id,
                model=spec.model,
                client=client,
                cost=weighs,
                pixels=spec.pixels,
                spec=encode(spec),
                blobs=blobs,
            )
        )

    async def plan(self, **fields: Any) -> JobSpec:
        """As the API plans it; `image` and `mask` name stored PNGs."""
        files = {name: await self.blobs.get(fields[name]) for name in ("image", "mask") if fields.get(name)}
        return job(self.engines[fields.get("model", "random")].model, files, **fields)

    async def spec(self, job_id: str) -> JobSpec:
        found = await self.queue.job(job_id)
        assert found is not None
        return decode(found.spec)

    async def events(self, job_id: str) -> list[Event]:
        async with asyncio.timeout(PATIENCE):
            return [event async for event in self.hub.watch(job_id)]

    async def result(self, job_id: str) -> JobResult:
        events = await self.events(job_id)
        assert events[-1].name == "completed", events[-1]
        found = await self.queue.job(job_id)
        assert found is not None
        assert found.result is not None
        return JobResult.model_validate(found.result)

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


def job(card: ModelCard, files: dict[str, bytes | None] | None = None, **fields: Any) -> JobSpec:
    """A job of small pictures, planned as the API plans it. image, mask: names of blobs, whose PNGs are in files; where
    there is none, any picture stands in for it. tokens: those of the image. fork: as in a spec."""
    names: dict[str, str] = {name: fields.pop(name) for name in ("image", "mask") if name in fields}
    tokens, fork = fields.pop("tokens", None), fields.pop("fork", None)
    task = TASKS[fields.pop("task", "generate")]
    sent = {"class": 1, "seed": 5, "steps": 8, "content_attention": "blockwise"} | fields
    sent = {name: value for name, value in sent.items() if name not in SETTINGS or name in card.settings}
    spec = task.plan(task.fields.model_validate(sent), _facts(names, files or {}, tokens, card), card)
    update = {"blobs": names} | ({} if fork is None else {"fork": ForkOrigin(**fork)})
    return spec.model_copy(update=update)


def _facts(
    names: dict[str, str], files: dict[str, bytes | None], tokens: np.ndarray | None, card: ModelCard
) -> PictureFacts | None:
    if not names:
        return None
    image, mask = (_stored(files.get(name)) for name in ("image", "mask"))
    size = (card.height, card.width) if image is None else (image.shape[0], image.shape[1])
    if mask is None or mask.shape != size or mask.all():
        mask = np.zeros(size, dtype=bool)
        mask[: size[0] // 2] = True
    grid = card.grid if tokens is None else (tokens.shape[0], tokens.shape[1])
    cells = fixed_cells(mask, grid) if "mask" in names else None
    return PictureFacts(size=size, grid=grid, fixed_cells=cells, tokens=tokens)


def _stored(file: bytes | None) -> np.ndarray | None:
    try:
        return None if file is None else np.asarray(Image.open(io.BytesIO(file)))
    except OSError:
        return None


@contextlib.asynccontextmanager
async def serving(
    redis_url: str, *engines: Engine, config: QueueConfig = CONFIG, reload: Any = None, **settings: Any
) -> AsyncIterator[Service]:
    client, blocking = connect(redis_url), connect(redis_url, blocking=True)
    queue, blobs, cards = Queue(client, config), BlobStore(client, config), WorkerCards(client, config)
    hub, metrics, stop = EventHub(blocking, config), Metrics(CollectorRegistry()), asyncio.Event()
    await hub.start()
    made = Worker(engines, queue, blobs, cards, metrics, Settings(**settings), reload)
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


async def candidates(queue: Queue, model: str) -> list[str]:
    """The jobs that wait to be drawn with nothing beside them."""
    return [decoded(job_id) for job_id in await queue.redis.zrange(queue.config.line_key("quarantine", model), 0, -1)]


def alone(folder: Path, known: dict[int, int] | None = None, **fields: Any) -> list[np.ndarray]:
    """The pictures' tokens as the library draws them. fields: as for `job`."""
    engine = Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=2048, batch_invariant=True))
    spec = job(engine.model, **fields)
    requests = [replace(request, fixed_tokens=known or {}) for request in drawing.requests(spec, engine.model)]
    return engine.generate(requests)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def pixels(data: bytes | None) -> np.ndarray:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)))
