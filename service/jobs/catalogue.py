"""Which models can be asked for, by the cards of the workers alive."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from engine.card import ModelCard
from service.errors import Problem, did_you_mean
from service.jobs import Queue, WorkerCards


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model with at least one live worker. capacity: the largest among its workers."""

    card: ModelCard
    capacity: dict[str, Any]
    workers: int


class Catalogue:
    """Reads the cards anew at most once in `fresh_seconds`, however many ask."""

    def __init__(self, cards: WorkerCards, queue: Queue, *, retry_after: int, fresh_seconds: float = 1.0) -> None:
        self._cards = cards
        self._queue = queue
        self._retry_after = retry_after
        self._fresh_seconds = fresh_seconds
        self._read_at = float("-inf")
        self._models: dict[str, ServedModel] = {}

    async def models(self) -> dict[str, ServedModel]:
        if time.monotonic() - self._read_at > self._fresh_seconds:
            self._models = {name: _served(data) for name, data in (await self._cards.models()).items()}
            self._read_at = time.monotonic()
        return self._models

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
            raise Problem.field("model", f"say which: {served}", "model_needed")
        if models and name is not None and name not in await self._queue.stats():
            near = ", ".join(dict.fromkeys(did_you_mean(name, sorted(models))))
            known = f"the nearest are {near}" if near else f"served now: {served}"
            raise Problem.field("model", f"there is no such model; {known}", "unknown_model")
        raise self._nobody_there()

    async def one(self, name: str) -> ServedModel:
        """For a path. Raises Problem: 404 where nobody ever served it, 503 where nobody does now."""
        models = await self.models()
        if name in models:
            return models[name]
        if name in await self._queue.stats():
            raise self._nobody_there()
        raise Problem(404, "unknown_model", "no worker serves a model of this name; see /v1/models")

    def _nobody_there(self) -> Problem:
        detail = "no worker serves this model at the moment; it may be starting"
        return Problem(503, "no_worker", detail, headers={"Retry-After": str(self._retry_after)})

    async def palette(self, name: str) -> bytes | None:
        """uint8 (codes, 4, 4, 3), row-major."""
        return await self._cards.palette(name)


def _served(data: dict[str, Any]) -> ServedModel:
    return ServedModel(ModelCard.from_json(data["card"]), data["capacity"], data["workers"])
