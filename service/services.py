"""What the routes work with: one `Services` for each running app."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from anyio import CapacityLimiter
from prometheus_client import Metric
from redis.asyncio import Redis

from service.auth.key_store import KeyStore
from service.auth.rate_limit import RateLimiter
from service.auth.signing import Signer
from service.jobs import BlobStore, EventHub, Queue, cancelled
from service.jobs.catalogue import Catalogue
from service.jobs.webhooks.hosts import WebhookHosts
from service.metrics import Metrics
from service.settings import Settings
from service.tasks.pictures.errors import Limits
from service.tasks.pictures.processes.fair_line import FairLine
from service.tasks.pictures.processes.pool import DecodePool

T = TypeVar("T")
WorkerMetrics = Callable[[], Awaitable[list[Metric]]]


@dataclass(slots=True)
class Lifecycle:
    """How a server shuts down. draining: it accepts no new jobs. closing: it ends the event streams that are open."""

    draining: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    settings: Settings
    lifecycle: Lifecycle
    metrics: Metrics
    worker_metrics: WorkerMetrics | None
    probe: Redis  # for /readyz: short timeouts, one retry: Redis may close an idle connection at any time
    queue: Queue
    hub: EventHub
    blobs: BlobStore
    catalogue: Catalogue
    keys: KeyStore
    signer: Signer
    limiter: RateLimiter
    canary: SingleFlight[dict[str, dict[str, Any]]]
    uploads: DecodePool
    transcoding: FairLine  # threads that code finished pictures in other formats
    webhook_hosts: WebhookHosts  # none: webhooks are off
    parsing: CapacityLimiter  # one thread for large bodies: while it parses JSON, no other thread runs

    @property
    def limits(self) -> Limits:
        return Limits(self.settings.max_pixels, self.settings.max_side)


class SingleFlight(Generic[T]):
    """Runs one piece of work at a time; callers that come meanwhile share its result."""

    def __init__(self) -> None:
        self._work: asyncio.Future[T] | None = None

    async def result(self, begin: Callable[[], Awaitable[T]]) -> T:
        """The result of the work under way; starts the work if there is none. It goes on if its caller is cancelled."""
        if self._work is None or self._work.done():
            self._work = asyncio.ensure_future(begin())
        return await asyncio.shield(self._work)

    async def close(self) -> None:
        if self._work is not None:
            await cancelled(self._work)
