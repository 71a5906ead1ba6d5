"""Prometheus metrics."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, Request, Response
from prometheus_client import Metric
from redis.exceptions import RedisError

from service.api.dependencies import ServicesDep
from service.metrics import SharedState, negotiated
from service.services import Services

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])

PATIENCE = 2.0
"""Seconds that a scrape waits for Redis."""


@router.get("/metrics", include_in_schema=False)
async def metrics(services: ServicesDep, request: Request) -> Response:
    """In Prometheus' text format, or in OpenMetrics. Where keys are needed, the key must have the scope `metrics`."""
    return await metrics_response(services, request.headers.get("accept"))


async def metrics_response(services: Services, accept: str | None) -> Response:
    """All series, with those of a worker that is this process's child. The queue's are read from Redis now, and left
    out if Redis does not respond."""
    shared, worker = await asyncio.gather(_shared(services), _of_worker(services))
    body, content_type = negotiated(accept, services.metrics.registry.collect(), worker, shared)
    return Response(body, headers={"Content-Type": content_type, "Vary": "Accept"})


async def _shared(services: Services) -> list[Metric]:
    try:
        async with asyncio.timeout(PATIENCE):
            loads, served = await services.queue.stats(), await services.catalogue.models()
            oldest, blobs = await services.queue.oldest(), await services.blobs.bytes_by_kind()
    except (RedisError, OSError, TimeoutError) as error:
        log.warning("the queue's metrics are missing: %s: %s", type(error).__name__, error)
        return []
    state = SharedState(
        waiting={model: load.queued for model, load in loads.items()},
        running={model: load.running for model, load in loads.items()},
        oldest=oldest,
        workers={model: served[model].workers if model in served else 0 for model in loads.keys() | served.keys()},
        blobs=blobs,
        blob_limit=services.blobs.limits.max_bytes,
    )
    return [*state.collect()]


async def _of_worker(services: Services) -> list[Metric]:
    return [] if services.worker_metrics is None else await services.worker_metrics()
