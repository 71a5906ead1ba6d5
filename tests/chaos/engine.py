"""An engine without a model: it has the engine's interface, and its tokens are hashes of seed and position.

Some classes are poison: drawing one ends the process, or makes the step fail for every request in it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from engine.card import ClassLabel, Defaults, ModelCard
from engine.noise import permutation, uniform
from engine.request import Request, RequestError, StepOutput

GRID = (8, 8)
STRIDE = 2
CODES = 256
PAGE = 16
PICTURES = 10  # room in the cache, for pictures without guidance
STEP_SECONDS = 0.004
POISON_STEP = 2  # of the poison job itself: by then others share its steps

HARMLESS = ("sphere", "cube", "torus", "cone")
EXITS, RAISES, RUNS_OUT = "exits", "raises", "runs out of memory"
POISONS = (EXITS, RAISES, RUNS_OUT)
CLASSES = (*HARMLESS, *POISONS)


class OutOfMemoryError(RuntimeError):
    """The worker recognises torch's error by this name."""


@dataclass(slots=True, kw_only=True)
class RequestOutput(StepOutput):
    id: int
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    running: int
    waiting: int
    pages_used: int
    pages_total: int
    rows_last_step: int
    rows_total: int
    steps_total: int
    rows_shared_total: int = 0
    pages_copied_total: int = 0
    limit: str | None = None


@dataclass(frozen=True, slots=True)
class Config:
    page_size: int = PAGE


@dataclass(slots=True)
class Drawing:
    request: Request
    order: tuple[int, ...]
    pages: int
    step: int = 0
    done: int = 0

    @property
    def steps(self) -> int:
        return min(self.request.steps, len(self.order))

    def advance(self, id: int) -> RequestOutput:
        first, self.step = self.done, self.step + 1
        self.done = len(self.order) * self.step // self.steps
        positions = self.order[first : self.done]
        return RequestOutput(
            id=id,
            step=self.step,
            steps=self.steps,
            positions=positions,
            tokens=tuple(token(self.request.seed, position) for position in positions),
            n_done=self.done,
            n_total=len(self.order),
        )


class Codec:
    """A token is a patch of one colour."""

    stride = STRIDE
    together = 4

    def encode(self, image: np.ndarray) -> np.ndarray:
        return (image[::STRIDE, ::STRIDE].astype(np.int32).sum(-1) % CODES).astype(np.int32)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return self._colours(tokens).repeat(STRIDE, 0).repeat(STRIDE, 1)

    def decode_many(self, tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self.decode(one) for one in tokens]

    def palette(self, stop: Callable[[], bool] = lambda: False) -> np.ndarray:
        return self._colours(np.arange(CODES))[:, None, None].repeat(4, 1).repeat(4, 2)

    def _colours(self, tokens: np.ndarray) -> np.ndarray:
        return np.stack([tokens, tokens * 7 % CODES, tokens * 31 % CODES], -1).astype(np.uint8)


@dataclass(slots=True)
class _Books:
    drawings: dict[int, Drawing] = field(default_factory=dict)
    rows_last: int = 0
    rows: int = 0
    steps: int = 0


class ChaosEngine:
    """Admits requests in order while pages are free; every step draws tokens of each admitted picture."""

    def __init__(self, name: str) -> None:
        self.model = ModelCard(
            name=name,
            family="arpg",
            grid=GRID,
            stride=STRIDE,
            codebook_size=CODES,
            classes=tuple(ClassLabel(label, words) for label, words in enumerate(CLASSES)),
            tasks=("generate", "inpaint"),
            defaults=Defaults(steps=8, guidance_scale=1.0),
            licence="Apache-2.0",
            description="Draws hashes",
            weights="w" * 16,
            tokenizer="t" * 16,
        )
        self.config = Config()
        self.codec = Codec()
        self.text_encoder = None
        self._pages = PICTURES * self._pages_of(1)
        self._ids = count()
        self._books = _Books()

    def add(self, request: Request) -> int:
        unknown = [cell for cell in range(self.model.positions) if cell not in request.fixed_tokens]
        if not unknown:
            raise RequestError("fixed_tokens", "nothing is left to draw")
        id, branches = next(self._ids), self._branches(request)
        order = request.order or permutation(request.seed, "order", unknown)
        self._books.drawings[id] = Drawing(request, order, self._pages_of(branches))
        return id

    def abort(self, request_id: int) -> None:
        self._books.drawings.pop(request_id, None)

    def step(self) -> list[RequestOutput]:
        books, running = self._books, self._running()
        books.rows_last = len(running)
        if not running:
            return []
        time.sleep(STEP_SECONDS)
        books.steps += 1
        books.rows += len(running)
        for id in running:
            self._suffer(books.drawings[id])
        updates = [books.drawings[id].advance(id) for id in running]
        for update in updates:
            if update.finished:
                del books.drawings[update.id]
        return updates

    def fork(self, parent: Request, tokens: Mapping[int, int], step: int, seed: int) -> Request:
        raise RequestError("step", "this engine does not fork")

    def cost(self, request: Request) -> int:
        return self._pages_of(self._branches(request)) * PAGE

    @property
    def idle(self) -> bool:
        return not self._books.drawings

    @property
    def tokens_total(self) -> int:
        return self._pages * PAGE

    @property
    def tokens_free(self) -> int:
        return max(0, self._pages - sum(drawing.pages for drawing in self._books.drawings.values())) * PAGE

    @property
    def kv_cache_bytes(self) -> int:
        return 0

    def stats(self) -> Stats:
        books, running = self._books, self._running()
        return Stats(
            running=len(running),
            waiting=len(books.drawings) - len(running),
            pages_used=sum(books.drawings[id].pages for id in running),
            pages_total=self._pages,
            rows_last_step=books.rows_last,
            rows_total=books.rows,
            steps_total=books.steps,
        )

    def check_integrity(self) -> None:
        assert all(drawing.done < len(drawing.order) for drawing in self._books.drawings.values())

    def _running(self) -> list[int]:
        running, pages = [], 0
        for id, drawing in self._books.drawings.items():
            pages += drawing.pages
            if pages > self._pages:
                break
            running.append(id)
        return running

    def _suffer(self, drawing: Drawing) -> None:
        label = drawing.request.class_label
        if label is None or drawing.step < POISON_STEP:
            return
        match CLASSES[label]:
            case "exits":
                os._exit(13)
            case "raises":
                raise RuntimeError("poison")
            case "runs out of memory":
                raise OutOfMemoryError("poison")

    def _branches(self, request: Request) -> int:
        return 1 if request.class_label is None or request.guidance_scale == 1 else 2

    def _pages_of(self, branches: int) -> int:
        return -(-GRID[0] * GRID[1] // PAGE) * branches


def token(seed: int, position: int) -> int:
    return int(uniform(seed, "chaos", position) * CODES)
