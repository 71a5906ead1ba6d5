"""The HTTP face, put together. Imports no torch."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry
from redis.exceptions import RedisError
from starlette.types import ASGIApp

from service import problems
from service.api import editing, forks, health, jobs, models, tasks
from service.api.catalogue import Catalogue
from service.api.services import Lifecycle, Services
from service.metrics import Metrics
from service.middleware import Envelope
from service.queue import Blobs, Cards, EventHub, Queue, check_server, connect
from service.settings import Settings

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "playground"
PIXEL_THREADS = 4

DESCRIPTION = """
Pictures from autoregressive models that draw many tokens at once, in any order.

A `POST` answers at once with a job; `Prefer: wait=30` waits for its end, `Accept: text/event-stream` follows it on
the same connection, `Accept: image/png` gives the picture itself. Errors are `application/problem+json`.
"""


class Service(FastAPI):
    """FastAPI inside the envelope that every response travels in, error pages too."""

    metrics: Metrics

    def build_middleware_stack(self) -> ASGIApp:
        return Envelope(super().build_middleware_stack(), self.metrics)


def create_app(
    settings: Settings,
    *,
    redis_url: str | None = None,
    metrics: Metrics | None = None,
    lifecycle: Lifecycle | None = None,
) -> FastAPI:
    """The app of one process.

    redis_url: instead of the settings' own, where the server was started for us. metrics and lifecycle: those of
    the process, where it is more than this app.
    """
    url = redis_url or settings.redis_address
    if url is None:
        raise ValueError("the API needs a Redis: settings.redis_url, or redis_url")
    metrics = metrics or Metrics(CollectorRegistry())
    lifecycle = lifecycle or Lifecycle()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with _services(settings, url, metrics, lifecycle) as services:
            yield {"services": services}

    app = Service(
        title="ARPG",
        description=DESCRIPTION,
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,  # ours: it needs nothing from elsewhere
        redoc_url=None,
        max_body_size=settings.max_body_bytes,
        responses=problems.RESPONSES,
        generate_unique_id_function=_operation_id,
    )
    app.metrics = metrics
    problems.install(app, retry_after=settings.retry_after)
    for topic in (tasks, editing, forks, jobs, models, health):
        app.include_router(topic.router)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html", headers={"Cache-Control": "no-cache"})

    app.mount("/playground", StaticFiles(directory=PAGE), name="playground")
    return app


@asynccontextmanager
async def _services(settings: Settings, url: str, metrics: Metrics, lifecycle: Lifecycle) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        redis, blocking = connect(url), connect(url, blocking=True)
        probe = connect(url, timeout=health.PATIENCE, retries=0, max_connections=4)
        for client in (redis, blocking, probe):
            stack.push_async_callback(client.aclose)
        config = settings.queue_config
        queue, hub = Queue(redis, config), EventHub(blocking, config)
        try:
            for warning in (await check_server(probe)).warnings:
                log.warning("redis: %s", warning)
        except (RedisError, OSError) as error:
            # It may come later; /readyz says so until then.
            log.warning("redis does not answer yet: %s", error)
        await hub.start()
        stack.push_async_callback(hub.close)
        yield Services(
            settings=settings,
            lifecycle=lifecycle,
            metrics=metrics,
            probe=probe,
            queue=queue,
            hub=hub,
            blobs=Blobs(redis, config, settings.blob_config),
            catalogue=Catalogue(Cards(redis, config), queue, retry_after=settings.retry_after),
            pixels=CapacityLimiter(PIXEL_THREADS),
        )


def _operation_id(route: APIRoute) -> str:
    return route.name
