"""What the API's tests share: a real uvicorn over a real Valkey, and a worker that a test drives by hand.

The hand-driven worker speaks the queue's own verbs, so that a test decides what happens when.
"""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import httpx
import numpy as np
from PIL import Image
from prometheus_client import CollectorRegistry

from engine.card import ClassLabel, Defaults, ModelCard
from service.jobs import BlobStore, Claim, Publication, Queue, WorkerCards, connect
from service.jobs.catalogue import Catalogue
from service.jobs.messages import encode_event
from service.jobs.packing import pack_tokens
from service.jobs.result import JobResult, JobWarning, StoredImage
from service.jobs.spec import SPEC_VERSION, JobSpec, decode
from service.metrics import Metrics
from service.server.app import create_app
from service.server.http_server import http_server
from service.server.listen import listen
from service.services import Lifecycle
from service.settings import Settings
from service.worker.events import completed
from tests.support.queue import decoded, stored_job
from tests.support.waiting import PATIENCE, eventually

T = TypeVar("T")

NAMES = ["sphere", "cube", "torus", "cone", "mushroom", "table", "tree", "house"]

CARD = ModelCard(
    name="hand",
    family="arpg",
    grid=(4, 4),
    stride=8,
    codebook_size=8,
    classes=tuple(ClassLabel(i, name, ("ball",) if name == "sphere" else ()) for i, name in enumerate(NAMES)),
    tasks=("generate", "inpaint", "vary", "outpaint", "expand", "fork"),
    defaults=Defaults(steps=8, guidance_scale=3.0),
    licence="Apache-2.0",
    description="Driven by hand",
    tokenizer="t" * 16,
)
CAPACITY = {"cache_tokens": 4096, "page_size": 16}


@dataclass
class Api:
    """A running server and the means to be its worker."""

    url: str
    settings: Settings
    lifecycle: Lifecycle
    metrics: Metrics
    client: httpx.Client
    loop: asyncio.AbstractEventLoop  # the server's
    app: Any

    def queue(self, work: Callable[[Queue, WorkerCards, BlobStore], Awaitable[T]]) -> T:
        """Runs `work` over clients of its own."""

        async def run() -> T:
            redis = connect(self.settings.redis_address or "")
            config = self.settings.queue_config
            try:
                cards = WorkerCards(redis, config, ttl_seconds=300)  # nobody renews it
                return await work(Queue(redis, config), cards, BlobStore(redis, config))
            finally:
                await redis.aclose()

        # In a thread of its own: in the test's thread, Playwright's event loop may be running.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, run()).result()

    def show_card(self, *models: ModelCard, worker: str = "hand-1") -> None:
        """That of a worker that serves these models; CARD alone where none is given."""
        models = models or (CARD,)

        async def put(_: Queue, cards: WorkerCards, __: BlobStore) -> None:
            served = [{"card": card.to_json(), "capacity": CAPACITY} for card in models]
            await cards.put(worker, {"worker": worker, "models": served, "spec": SPEC_VERSION})
            for card in models:
                await cards.put_palette(card.name, np.arange(8 * 48, dtype=np.uint8).tobytes())

        self.queue(put)
        self.wait_for_models(lambda served: served >= {card.name for card in models})

    def withdraw_card(self, worker: str) -> None:
        shown = {model["id"] for model in self.client.get("/v1/models").json()["models"]}
        self.queue(lambda _, cards, __: cards.remove(worker))
        self.wait_for_models(lambda served: served < shown)

    def wait_for_models(self, condition: Callable[[set[str]], bool]) -> None:
        def served() -> set[str]:
            return {model["id"] for model in self.client.get("/v1/models").json()["models"]}

        assert eventually(lambda: condition(served())), f"{served()} are served"

    def empty(self) -> None:
        """Cancels whatever waits or runs."""

        async def cancel_all(queue: Queue, _: WorkerCards, __: BlobStore) -> None:
            sets = [queue.config.line_key(name, model) for name in ("ready", "leases") for model in await queue.stats()]
            for key in sets:
                for job in await queue.redis.zrange(key, 0, -1):
                    if await queue.cancel(decoded(job)) == "requested":
                        attempt = (await stored_job(queue, decoded(job))).attempt
                        await queue.finish(decoded(job), attempt, 10**6, state="canceled", event="canceled", data={})

        self.queue(cancel_all)

    def claim(self, model: str = "hand") -> Claim:
        claims = self.queue(lambda q, _, __: q.claim(model, "hand-1", budget=10**6, limit=1, alone=True))
        assert len(claims) == 1, "there was no job to claim"
        return claims[0]

    def publish(self, claim: Claim, sequence: int, event: str | None, data: dict[str, Any]) -> str:
        publication = Publication(
            job_id=claim.id, attempt=claim.attempt, sequence=sequence, event=event, data=encode_event(data)
        )
        return self.queue(lambda q, _, __: q.publish([publication]))[claim.id, claim.attempt]

    def draw(self, claim: Claim, *, steps: int = 2, tokenizer: str = CARD.tokenizer) -> None:
        """A whole job, as the real worker tells it: started, tokens, completed."""
        n, seeds = spec_of(claim).n, [*spec_of(claim).seeds]
        self.publish(
            claim, 1, "started", {"attempt": claim.attempt, "images": n, "grid": [4, 4], "steps": steps, "known": 0}
        )
        sequence, per_step = 2, 16 // steps
        for step in range(1, steps + 1):
            for index in range(n):
                positions = list(range((step - 1) * per_step, step * per_step))
                done = {"n_done": step * per_step, "n_total": 16}
                data = {"image_index": index, "step": step, "steps": steps, "positions": positions}
                self.publish(claim, sequence, "tokens", data | {"tokens": [p % 8 for p in positions]} | done)
                sequence += 1
        self.finish(claim, sequence, seeds, tokenizer)

    def finish(
        self,
        claim: Claim,
        sequence: int,
        seeds: list[int],
        tokenizer: str = CARD.tokenizer,
        warnings: Sequence[JobWarning] = (),
    ) -> None:
        result = result_of(claim, seeds, tokenizer).model_copy(update={"warnings": tuple(warnings)})
        assert self.queue(lambda queue, _, blobs: succeed(claim, sequence, result, queue, blobs)) == "ok"

    def blob(self, name: str) -> bytes | None:
        return self.queue(lambda _, __, blobs: blobs.get(name))

    def put_blob(self, name: str, data: bytes) -> None:
        self.queue(lambda _, __, blobs: blobs.put(name, data))

    def generate(self, **fields: Any) -> dict[str, Any]:
        response = self.client.post("/v1/generate", json=fields)
        assert response.status_code == 202, response.text
        job: dict[str, Any] = response.json()
        return job


def result_of(claim: Claim, seeds: Sequence[int], tokenizer: str = CARD.tokenizer) -> JobResult:
    """As if a worker had drawn the same tokens for each seed."""
    (height, width), (rows, cols) = spec_of(claim).size, spec_of(claim).grid
    packed = pack_tokens((np.arange(rows * cols) % 8).reshape(rows, cols))
    images = [
        StoredImage(
            index=index, seed=seed, width=width, height=height, blob=f"{claim.id}/result/{index}",
            grid=(rows, cols), packed_tokens=packed,
        )
        for index, seed in enumerate(seeds)
    ]  # fmt: skip
    timings = {"queue_seconds": 0.1, "draw_seconds": 0.2}
    usage = {"steps": 2, "tokens_drawn": rows * cols, "tokens_known": 0}
    return JobResult(images=tuple(images), tokenizer=tokenizer, weights="", timings=timings, usage=usage)


async def succeed(claim: Claim, sequence: int, result: JobResult, queue: Queue, blobs: BlobStore) -> str:
    """Stores a picture of noise for each image, and ends the job."""
    for image in result.images:
        await blobs.put(image.blob, png(noise(image.height, image.width, seed=image.index)))
    data = completed(result.images, result.timings, result.usage, result.warnings)
    return await queue.finish(
        claim.id, claim.attempt, sequence, state="succeeded", event="completed", data=data, result=result.model_dump()
    )


@contextmanager
def running_api(settings: Settings, key: str = "") -> Iterator[Api]:
    """The app under a real uvicorn on a port of its own, in a thread. key: what the harness's own client asks with."""
    lifecycle, metrics = Lifecycle(), Metrics(CollectorRegistry())
    app = create_app(settings, metrics=metrics, lifecycle=lifecycle)
    listener = listen("127.0.0.1", 0, stalled=settings.stalled_timeout)
    server = http_server(app, settings)
    server.config.timeout_graceful_shutdown = 3
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve(sockets=[listener]),))
    # Tests change the cards and wait until the server has read them.
    with patch("service.server.app.Catalogue", partial(Catalogue, fresh_seconds=0.05)):
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
    try:
        assert server.started, "the server did not start"
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=url, timeout=PATIENCE, headers=headers) as client:
            yield Api(url, settings, lifecycle, metrics, client, loop, app)
    finally:
        loop.call_soon_threadsafe(lifecycle.closing.set)
        server.should_exit = True
        thread.join(PATIENCE)
        listener.close()
        loop.close()
    assert not thread.is_alive(), "the server did not stop"


def frames(lines: Iterator[str], seconds: float = PATIENCE) -> Iterator[dict[str, Any]]:
    """Server-sent events as a browser reads them: event, id, retry, and data as JSON."""
    frame: dict[str, Any] = {}
    deadline = time.monotonic() + seconds
    for line in lines:
        assert time.monotonic() < deadline, "the stream has not ended"
        if line == "":
            if "data" in frame:
                frame["data"] = json.loads(frame["data"])
                yield frame
            frame = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            frame[name] = f"{frame[name]}\n{value}" if name == "data" and name in frame else value


def dechunked(said: bytes) -> bytes:
    """The body of a chunked response, whose first bytes were taken already."""
    rest, body = said.partition(b"\r\n\r\n")[2], b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            return body
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]


def png(image: np.ndarray, mode: str | None = None) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(file, "PNG")
    return file.getvalue()


def saved(picture: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def noise(height: int, width: int, *, seed: int = 0, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def half_mask(height: int, width: int) -> np.ndarray:
    """The left half is to be drawn."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, : width // 2] = 255
    return mask


def spec_of(claim: Claim) -> JobSpec:
    return decode(claim.spec)
