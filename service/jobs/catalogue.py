"""The models that are served now, read from the cards of the live workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.card import ModelCard
from service.errors import Problem, did_you_mean
from service.jobs import Queue, WorkerCards


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model with at least one live worker. capacity: the largest of its workers'. since: when the first of them
    started, in Unix seconds."""

    card: ModelCard
    capacity: dict[str, Any]
    workers: int
    since: float = 0


class Catalogue:
    """Reads the cards at most once in `fresh_seconds`, however many requests come.

    seen: called with the name and tasks of each model that is read.
    """

    def __init__(
        self,
        cards: WorkerCards,
        queue: Queue,
        *,
        retry_after: int,
        fresh_seconds: float = 1.0,
        seen: Callable[[str, Sequence[str]], object] = lambda *_: None,
    ) -> None:
        self._cards = cards
        self._queue = queue
        self._retry_after = retry_after
        self._fresh_seconds = fresh_seconds
        self._seen = seen
        self._known: set[str] = set()  # served now or once
        self._read_at = float("-inf")
        self._models: dict[str, ServedModel] = {}

    async def models(self) -> dict[str, ServedModel]:
        if time.monotonic() - self._read_at > self._fresh_seconds:
            self._models = {name: _served(data) for name, data in (await self._cards.models()).items()}
            self._read_at = time.monotonic()
            for name, served in self._models.items():
                self._known.add(name)
                self._seen(name, served.card.tasks)
        return self._models

    def read_again(self) -> None:
        """The next call of `models` reads the cards, however fresh the last ones are."""
        self._read_at = float("-inf")

    def meant(self, name: str | None) -> str | None:
        """The model that a request names, or the only one, if a worker served it once. For counting."""
        if name is None and len(self._known) == 1:
            return next(iter(self._known))
        return name if name in self._known else None

    async def choose(self, name: str | None) -> ServedModel:
        """The model that a request names, or the only one.

        Raises Problem: 422 if several are served and the request names none, or if the name is unknown; 503 if no
        worker serves the model now.
        """
        models = await self.models()
        if name is None and len(models) == 1:
            [name] = models
        if name is not None and name in models:
            return models[name]
        served = ", ".join(sorted(models))
        if models and name is None:
            raise Problem.field("model", f"name one of the models: {served}", "model_needed")
        if models and name is not None and name not in await self._queue.stats():
            near = ", ".join(dict.fromkeys(did_you_mean(name, sorted(models))))
            known = f"similar names: {near}" if near else f"served now: {served}"
            raise Problem.field("model", f"no such model; {known}", "unknown_model")
        raise self._no_worker()

    async def one(self, name: str) -> ServedModel:
        """The model of a path. Raises Problem: 404 if no worker ever served it, 503 if none does now."""
        models = await self.models()
        if name in models:
            return models[name]
        if name in await self._queue.stats():
            raise self._no_worker()
        raise Problem(404, "unknown_model", "no model has this name; see /v1/models")

    def _no_worker(self) -> Problem:
        detail = "no worker serves this model at the moment; one may be starting, so try again later"
        return Problem(503, "no_worker", detail, headers={"Retry-After": str(self._retry_after)})

    async def loads(self) -> dict[str, dict[str, float]]:
        """Model → what its workers do now: `pictures`, `tokens_per_second`, `kv_pages`, `kv_pages_used`."""
        return await self._cards.loads()

    async def palette(self, name: str) -> bytes | None:
        """uint8 (codes, 4, 4, 3), row-major."""
        return await self._cards.palette(name)


def _served(data: dict[str, Any]) -> ServedModel:
    return ServedModel(ModelCard.from_json(data["card"]), data["capacity"], data["workers"], data["since"])
