"""Is it alive, is it ready, and what does it measure."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError

from service.api.canary import run_canary
from service.api.dependencies import OptionalClientDep, ServicesDep
from service.api.problems import described
from service.services import Services

router = APIRouter(tags=["health"])

PATIENCE = 2.0
"""Seconds that a probe waits for Redis."""


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives and answers."""
    return {"status": "ok"}


@router.get("/readyz", responses=described(422) | {503: {"description": "Not ready, and why"}})
async def readyz(
    services: ServicesDep,
    client: OptionalClientDep,
    canary: Annotated[bool, Query(description="Draw a picture with each model (scope `metrics`)")] = False,
) -> JSONResponse:
    """A picture could be drawn now: Redis answers, and a worker has shown its card."""
    reasons = await _reasons(services)
    if canary and not reasons:
        # One at a time, for all who ask meanwhile: it is no way to keep the workers busy.
        sung = await services.canary.result(lambda: run_canary(services))
        well = bool(sung) and all(one["status"] == "succeeded" for one in sung.values())
        status = "ready" if well else "unavailable"
        return JSONResponse({"status": status, "canary": sung}, status_code=200 if well else 503)
    if reasons:
        headers = {"Retry-After": str(services.settings.retry_after)}
        return JSONResponse({"status": "unavailable", "reasons": reasons}, status_code=503, headers=headers)
    ready: dict[str, Any] = {"status": "ready"}
    if client is not None:
        ready["models"] = sorted(await services.catalogue.models())
    return JSONResponse(ready)


@router.get("/metrics", include_in_schema=False)
async def metrics(services: ServicesDep) -> Response:
    """Prometheus. Where keys are needed, for those with the scope `metrics`."""
    return await scraped(services)


async def scraped(services: Services) -> Response:
    """What is measured. The queue is read when it is asked for; where Redis is away, its series say nothing."""
    depth = services.metrics.queue_depth
    depth.clear()
    try:
        async with asyncio.timeout(PATIENCE):
            for model, load in (await services.queue.stats()).items():
                depth.labels(model).set(load.queued)
    except (RedisError, OSError, TimeoutError):
        depth.clear()
    return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _reasons(services: Services) -> list[str]:
    if services.lifecycle.draining:
        return ["the server is shutting down"]
    try:
        async with asyncio.timeout(PATIENCE):
            await services.probe.ping()
            served = await services.catalogue.models()
    except (RedisError, OSError, TimeoutError) as error:
        return [f"redis does not answer ({type(error).__name__})"]
    return [] if served else ["no worker has shown itself yet"]
