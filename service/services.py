"""What the routes work with, handed to them by dependency.

Work that is done once for all who ask while it is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from anyio import CapacityLimiter
from fastapi import Depends, Request
from redis.asyncio import Redis

from service.auth.keys import Client, KeyRing
from service.auth.rate_limit import Limiter
from service.auth.signing import Signer
from service.jobs import Blobs, EventHub, Queue, cancelled
from service.jobs.catalogue import Catalogue
from service.metrics import Metrics
from service.settings import Settings
from service.tasks.images import Limits


@dataclass(slots=True)
class Lifecycle:
    """How a server goes away: it takes no new work (draining), then lets go of whoever listens (closing)."""

    draining: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    settings: Settings
    lifecycle: Lifecycle
    metrics: Metrics
    probe: Redis  # for /readyz: short timeouts, no retries
    queue: Queue
    hub: EventHub
    blobs: Blobs
    catalogue: Catalogue
    keys: KeyRing
    signer: Signer
    limiter: Limiter
    canary: SingleFlight[dict[str, dict[str, Any]]]
    pixels: CapacityLimiter  # threads that decode and encode pictures

    @property
    def limits(self) -> Limits:
        return Limits(self.settings.max_pixels, self.settings.max_side)


def _services(request: Request) -> Services:
    services: Services = request.state.services
    return services


def _stranger(request: Request) -> Client | None:
    client: Client | None = request.state.client
    return client


def _client(request: Request) -> Client:
    client: Client = request.state.client
    return client


ServicesDep = Annotated[Services, Depends(_services)]
ClientDep = Annotated[Client, Depends(_client)]

StrangerDep = Annotated[Client | None, Depends(_stranger)]
"""Of the routes that are open: None is who has no key and would need one elsewhere."""


T = TypeVar("T")


class SingleFlight(Generic[T]):
    def __init__(self) -> None:
        self._work: asyncio.Future[T] | None = None

    async def result(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Of the work under way; where there is none, it begins. It goes on when who began it goes away."""
        if self._work is None or self._work.done():
            self._work = asyncio.ensure_future(begin())
        return await asyncio.shield(self._work)

    async def close(self) -> None:
        if self._work is not None:
            await cancelled(self._work)
