"""Health and readiness."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from service.api.dependencies import OptionalClientDep, ServicesDep
from service.api.problems import described
from service.api.routes.canary import run_canary
from service.services import Services

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])

PATIENCE = 2.0
"""Seconds that a health check waits for Redis."""


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Tell that the process is alive and answers."""
    return {"status": "ok"}


@router.get("/readyz", responses=described(422) | {503: {"description": "Not ready, and why"}})
async def readyz(
    services: ServicesDep,
    client: OptionalClientDep,
    canary: Annotated[bool, Query(description="Draw a picture with each model (scope `metrics`)")] = False,
) -> JSONResponse:
    """Tell whether a picture can be drawn now: Redis takes writes, and at least one worker is alive."""
    reasons = await _reasons(services)
    if canary and not reasons:
        # One at a time, shared by all requests that come meanwhile, so that nobody can keep the workers busy with it.
        drawn = await services.canary.result(lambda: run_canary(services))
        succeeded = bool(drawn) and all(one["status"] == "succeeded" for one in drawn.values())
        status = "ready" if succeeded else "unavailable"
        return JSONResponse({"status": status, "canary": drawn}, status_code=200 if succeeded else 503)
    if reasons:
        headers = {"Retry-After": str(services.settings.retry_after)}
        return JSONResponse({"status": "unavailable", "reasons": reasons}, status_code=503, headers=headers)
    ready: dict[str, Any] = {"status": "ready"}
    if client is not None:
        ready["models"] = sorted(await services.catalogue.models())
    return JSONResponse(ready)


async def _reasons(services: Services) -> list[str]:
    if services.lifecycle.draining:
        return ["the server is shutting down"]
    try:
        async with asyncio.timeout(PATIENCE):
            await services.probe.set(f"{services.queue.config.prefix}ready", 1, px=60_000)
            served = await services.catalogue.models()
    except OutOfMemoryError:
        return ["redis is at its maxmemory: it takes no new jobs and no pictures"]
    except ResponseError as error:
        log.warning("redis takes no writes: %s", error)
        return [f"redis takes no writes ({type(error).__name__})"]
    except (RedisError, OSError, TimeoutError) as error:
        return [f"redis does not respond ({type(error).__name__})"]
    return [] if served else ["no worker is alive yet"]
