"""What the routes work with, handed to them by dependency."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, Any

from anyio import CapacityLimiter
from fastapi import Depends, Request
from redis.asyncio import Redis

from service.api.catalogue import Catalogue
from service.api.single_flight import SingleFlight
from service.images import Limits
from service.keys import Client, KeyRing
from service.limits import Limiter
from service.metrics import Metrics
from service.queue import Blobs, EventHub, Queue
from service.settings import Settings
from service.signing import Signer


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
