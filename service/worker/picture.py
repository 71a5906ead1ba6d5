"""The pictures of one attempt at a job: payload → requests → tokens → stored pictures."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from engine.editing.windows import WindowedGeneration
from engine.request import EMPTY, Request, StepOutput
from service.jobs import BlobStore, Claim, cancelled
from service.jobs.messages import AttemptKey
from service.tasks import inputs as pictures
from service.tasks.drawing import Layout, layout_of
from service.tasks.inputs import Source
from service.tasks.sources import source_of
from service.tasks.uploads import uploads_of
from service.worker.engine_thread import EngineThread, ImageKey
from service.worker.publisher import Publisher
from service.worker.retry import retry_transient

if TYPE_CHECKING:
    from engine.card import ModelCard
    from engine.codec.codec import Codec
    from engine.request import RequestOutput

log = logging.getLogger(__name__)

T = TypeVar("T")
InThread = Callable[..., Awaitable[Any]]
Fork = Callable[[Request, Mapping[int, int], int, int], Request]
"""As Engine.fork."""


class Canvas:
    """One picture as it comes."""

    def __init__(self, generation: WindowedGeneration) -> None:
        self.generation = generation
        self.drawn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.previewing = False


class Canvases:
    """Codec calls go through `in_thread`, beside the engine's steps. Everything else is for the event loop.

    Pictures that an earlier attempt finished are kept as they are; the others are drawn.

    layout, steps and source are known when the pictures start. unadmitted: pictures that the engine does not count now.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        card: ModelCard,
        codec: Codec,
        engine: EngineThread,
        fork: Fork,
        blobs: BlobStore,
        publisher: Publisher,
        in_thread: InThread,
    ) -> None:
        self.steps = 0  # that each picture takes
        self.source: Source | None = None
        self._count = int(claim.payload["n"])
        self._kept = {int(picture["index"]): picture for picture in claim.pictures}
        self.unadmitted = self._count - len(self._kept)
        self.tokens_drawn = 0
        self.first_tokens_at: float | None = None
        self.last_tokens_at: float | None = None
        self._payload = claim.payload
        self.layout: Layout | None = None
        self._key: AttemptKey = (claim.id, claim.attempt)
        self._card = card
        self._codec = codec
        self._engine = engine
        self._fork = fork
        self._blobs = blobs
        self._publisher = publisher
        self._in_thread = in_thread
        self._canvases: list[Canvas] = []
        self._parts: set[asyncio.Task[Any]] = set()  # pictures and previews in the making

    def __len__(self) -> int:
        return self._count

    async def draw(self) -> list[dict[str, Any]]:
        """The stored images, as the job's result lists them. Raises what made one of them fail."""
        payload, card = self._payload, self._card
        if names := uploads_of(payload):
            uploads = {what: await self._blob(name) for what, name in names.items()}
            self.source = await self._in_thread(source_of, payload, uploads, card, self._codec)
        layout = self.layout = layout_of(payload, self.source, card)
        templates = self._templates(layout)
        self._canvases = [Canvas(layout.generation(template)) for template in templates]
        self.steps = card.steps or self._canvases[0].generation.steps
        started = {
            "attempt": self._key[1],
            "images": len(self),
            "grid": list(layout.grid),
            "steps": self.steps,
            "known": len(layout.known),
            "kept": sorted(self._kept),
        }
        self._publisher.started(self._key, started)
        for index, template in enumerate(templates):
            if index in self._kept:
                self._keep(index, template)
                continue
            if template.replayed_tokens:
                self._tell_shared(index, template)
            self._add(index)
        missing = [index for index in range(len(self)) if index not in self._kept]
        drawn = await asyncio.gather(*(self._part(self._picture(index)) for index in missing))
        return sorted([*self._kept.values(), *drawn], key=itemgetter("index"))

    def admitted(self) -> None:
        self.unadmitted -= 1

    def refused(self, image: int, error: Exception) -> None:
        drawn = self._canvases[image].drawn
        if not drawn.done():
            drawn.set_exception(error)

    def update(self, image: int, update: RequestOutput) -> None:
        """What a step drew: onto the canvas, and on its way to whoever watches."""
        canvas = self._canvases[image]
        if canvas.drawn.done():  # stopped, while the engine took a last step of it
            return
        painted = canvas.generation.update(update)
        self.tokens_drawn += len(painted.tokens)
        self.last_tokens_at = time.monotonic()
        self.first_tokens_at = self.first_tokens_at or self.last_tokens_at
        self._tell(image, painted)
        if painted.finished:
            canvas.drawn.set_result(None)
            return
        if update.finished:  # of its window
            self.unadmitted += 1
            self._add(image)
        every = self._payload["previews"]
        if every and painted.step % every == 0 and not canvas.previewing:
            canvas.previewing = True  # one at a time: previews never queue up behind a slow codec
            self._part(self._preview(image, canvas, canvas.generation.tokens.copy(), painted.step))

    async def stop(self) -> None:
        """Takes everything out of the engine, and ends what is in the making. Not while `draw` runs: it would put
        more into the engine."""
        for index, canvas in enumerate(self._canvases):
            self._engine.abort(ImageKey(*self._key, index))
            canvas.drawn.cancel()
        await cancelled(*self._parts)

    def _templates(self, layout: Layout) -> list[Request]:
        """What to draw, a request a picture."""
        payload = self._payload
        requests = [pictures.request_of(payload, index, {}) for index in range(len(self))]
        if not (forks := payload.get("forks")):
            return requests
        drawn = {cell: token for cell, token in enumerate(chain.from_iterable(payload["drawn"])) if token != EMPTY}
        step, ancestor = forks[-1][0], forks[0][1]  # whose order all that come after it go by
        parents = [replace(request, fixed_tokens=layout.known, seed=ancestor) for request in requests]
        return [
            self._fork(parent, drawn, step, request.seed) for parent, request in zip(parents, requests, strict=True)
        ]

    def _add(self, index: int) -> None:
        request = self._canvases[index].generation.next_request()
        assert request is not None
        self._engine.add(ImageKey(*self._key, index), request)

    def _tell(self, index: int, painted: StepOutput) -> None:
        told = {"image_index": index} | asdict(painted)
        lists = {name: list(told[name]) for name in ("positions", "tokens")}
        self._publisher.tokens(self._key, told | lists | {"steps": self.steps})

    def _keep(self, index: int, template: Request) -> None:
        """A picture of an earlier attempt. The end of it may not have been told."""
        assert self.layout is not None
        canvas, tokens = self._canvases[index], self._kept[index]["tokens"]
        cells = [int(cell) for cell in np.flatnonzero(self.layout.tokens == EMPTY)]
        flat = tuple(chain.from_iterable(tokens))
        self.tokens_drawn += len(cells) - len(template.replayed_tokens)
        canvas.drawn.set_result(None)
        whole = StepOutput(
            step=self.steps,
            steps=self.steps,
            positions=tuple(cells),
            tokens=tuple(flat[cell] for cell in cells),
            n_done=len(cells),
            n_total=len(cells),
        )
        self._tell(index, whole)

    def _tell_shared(self, index: int, template: Request) -> None:
        """What a fork has from its parent: who watches sees the whole picture."""
        positions, tokens = tuple(template.replayed_tokens), tuple(template.replayed_tokens.values())
        shared = StepOutput(
            step=self._payload["forks"][-1][0],
            steps=self.steps,
            positions=positions,
            tokens=tokens,
            n_done=len(positions),
            n_total=self._canvases[index].generation.total,
        )
        self._tell(index, shared)

    async def _blob(self, name: str) -> bytes | None:
        return await retry_transient("reading an upload", partial(self._blobs.get, name))

    def _part(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._parts.add(task)
        task.add_done_callback(self._parts.discard)
        return task

    async def _picture(self, index: int) -> dict[str, Any]:
        canvas, payload = self._canvases[index], self._payload
        await canvas.drawn
        tokens = canvas.generation.tokens
        assert self.layout is not None
        forks = [(step, seed) for step, seed in payload.get("forks", ())]
        finish = partial(pictures.finished, windows=self.layout.corners, forks=forks)
        request, name = pictures.request_of(payload, index, {}), payload["class_name"]
        made = await self._in_thread(finish, tokens, self.source, self._codec, self._card, request, name)
        job_id, attempt = self._key
        picture = {
            "index": index,
            "seed": payload["seeds"][index],
            "width": made.width,
            "height": made.height,
            "blob": f"{job_id}/result/{attempt}/{index}",
            "tokens": tokens.tolist(),
        }
        store = partial(self._blobs.put, picture["blob"], made.png, job=self._key, picture=picture)
        if not await retry_transient("storing a picture", store):
            log.warning("a picture of job %s is not stored: the job is another worker's", job_id)
        return picture

    async def _preview(self, image: int, canvas: Canvas, tokens: np.ndarray, step: int) -> None:
        try:
            shown = await self._in_thread(pictures.preview, tokens, self._codec)
        except Exception:
            log.exception("a preview of job %s failed", self._key[0])
        else:
            if not canvas.drawn.done():  # else the picture itself is on its way
                data = {"image_index": image, "step": step, "format": "jpeg", "b64_json": shown}
                self._publisher.preview(self._key, data)
        finally:
            canvas.previewing = False
