"""The HTTP app: routes, middleware and the services behind them. Imports no torch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from service import logs
from service.api import problems
from service.api.openai import routes as openai_routes
from service.api.presenter import webhook_body
from service.api.routes import (
    events,
    forks,
    health,
    job_list,
    jobs,
    load,
    models,
    prometheus,
    sessions,
    tasks,
    webhooks,
)
from service.auth.key_store import KeyStore
from service.auth.rate_limit import RateLimiter
from service.auth.signing import Signer
from service.jobs import BlobStore, EndedJob, EventHub, Queue, WorkerCards, connect
from service.jobs.catalogue import Catalogue
from service.jobs.spec import named_model, task_of
from service.jobs.webhooks.hosts import WebhookHosts
from service.jobs.webhooks.queue import WebhookQueue
from service.metrics import Metrics
from service.server import openapi
from service.server.auth_middleware import AuthMiddleware
from service.server.body_limits import BODIES_HELD, BodyLimitsMiddleware
from service.server.listen import is_loopback
from service.server.middleware import (
    FramingMiddleware,
    HeadMiddleware,
    RequestContextMiddleware,
    cors_middleware,
)
from service.server.pacing import PacingMiddleware
from service.services import Lifecycle, Services, SingleFlight, WorkerMetrics
from service.settings import Settings
from service.tasks.pictures.processes.fair_line import FairLine
from service.tasks.pictures.processes.pool import DecodePool

PAGE = Path(__file__).parents[1] / "playground"
TRANSCODING_THREADS = 2

DESCRIPTION = """
Pictures from autoregressive models that draw many tokens at once, in any order.

A `POST` answers at once with a job; `Prefer: wait=30` waits for its end, `Accept: text/event-stream` follows it on
the same connection, `Accept: image/png` gives the picture itself. Errors are `application/problem+json`.
"""


class Service(FastAPI):
    """FastAPI inside our middleware, so that error responses pass through it too."""

    metrics: Metrics
    settings: Settings
    services: Services | None = None  # once it has started

    def openapi(self) -> dict[str, Any]:
        before = self.openapi_schema
        document = super().openapi()
        if document is not before:
            openapi.finish(document)
        return document

    def build_middleware_stack(self) -> ASGIApp:
        settings = self.settings
        app: ASGIApp = AuthMiddleware(HeadMiddleware(super().build_middleware_stack()))
        app = BodyLimitsMiddleware(
            app,
            seconds=settings.body_timeout,
            max_bytes=BODIES_HELD * settings.max_body_bytes,
            retry_after=settings.retry_after,
        )
        if settings.cors_origins:
            app = cors_middleware(app, settings.cors_origins)
        app = PacingMiddleware(FramingMiddleware(app))
        return RequestContextMiddleware(app, self.metrics, settings.max_body_bytes)


def create_app(
    settings: Settings,
    *,
    redis_url: str | None = None,
    metrics: Metrics | None = None,
    lifecycle: Lifecycle | None = None,
    keys: KeyStore | None = None,
    worker_metrics: WorkerMetrics | None = None,
) -> Service:
    """The app of one process.

    redis_url: instead of the settings' own, for an embedded server. metrics, lifecycle and keys: those of the process,
    if other parts of it share them. worker_metrics: the series of a worker whose process is this one's child.
    """
    url = redis_url or settings.redis_address
    if url is None:
        raise ValueError("the API needs a Redis: set redis_url in the settings, or pass redis_url")
    metrics = metrics or Metrics(CollectorRegistry())
    lifecycle = lifecycle or Lifecycle()
    keys = keys or KeyStore(settings.keys_path, needed=not is_loopback(settings.host))

    @asynccontextmanager
    async def lifespan(app: Service) -> AsyncIterator[dict[str, Any]]:
        async with _services(settings, url, metrics, lifecycle, keys, worker_metrics) as services:
            app.services = services
            yield {"services": services}

    app = Service(
        title="ARPG",
        description=DESCRIPTION,
        version="0.1.0",
        license_info=openapi.LICENCE,
        servers=[{"url": settings.root_path or "/", "description": "This server"}],
        openapi_tags=openapi.TAGS,
        lifespan=lifespan,
        docs_url=None,  # our own page loads nothing from other sites
        redoc_url=None,
        max_body_size=settings.max_body_bytes,
        responses=problems.RESPONSES,
        generate_unique_id_function=_operation_id,
    )
    app.metrics, app.settings = metrics, settings
    problems.install(app, retry_after=settings.retry_after, max_body_bytes=settings.max_body_bytes)
    for topic in (
        tasks,
        forks,
        job_list,
        jobs,
        events,
        webhooks,
        models,
        load,
        openai_routes,
        sessions,
        health,
        prometheus,
    ):
        app.include_router(topic.router)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html", headers={"Cache-Control": "no-cache"})

    app.mount("/playground", StaticFiles(directory=PAGE), name="playground")
    return app


@asynccontextmanager
async def _services(
    settings: Settings,
    url: str,
    metrics: Metrics,
    lifecycle: Lifecycle,
    keys: KeyStore,
    worker_metrics: WorkerMetrics | None,
) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        redis, blocking = connect(url), connect(url, blocking=True)
        probe = connect(url, timeout=health.PATIENCE, retries=1, max_connections=4)
        for client in (redis, blocking, probe):
            stack.push_async_callback(client.aclose)
        config = settings.queue_config

        def count(ended: EndedJob) -> None:
            """Counts a job that ended without a worker."""
            metrics.count_end(named_model(ended.spec), task_of(ended.spec), ended.state, ended.code)
            logs.job_line(
                ended.id,
                ended.state,
                code=ended.code,
                seconds=ended.seconds,
                request_id=ended.request_id,
                model=named_model(ended.spec),
                task=task_of(ended.spec),
            )

        queue = Queue(redis, config)
        hub = EventHub(blocking, config, swept=count, skipped=metrics.events_skipped.inc)
        await hub.start(lifecycle.closing)
        stack.push_async_callback(hub.close)
        canary: SingleFlight[dict[str, dict[str, Any]]] = SingleFlight()
        stack.push_async_callback(canary.close)
        uploads = DecodePool(
            settings.decode_processes, settings.decode_seconds, settings.max_pixels, settings.max_body_bytes
        )
        stack.push_async_callback(uploads.close)
        signer, hosts = Signer(redis, config.prefix, settings.signing_secret), WebhookHosts(settings.webhook_hosts)
        if hosts:
            from service.jobs.webhooks.caller import WebhookCaller, resolve  # httpx is slow to import
            from service.jobs.webhooks.sender import WebhookSender

            sender = WebhookSender(
                WebhookQueue(redis, config),
                queue,
                WebhookCaller(hosts, resolve),
                metrics.webhooks,
                secret_of=signer.webhook_secret,
                body_of=partial(webhook_body, root=settings.root_path),
            )
            sender.start()
            stack.push_async_callback(sender.close)
        yield Services(
            settings=settings,
            lifecycle=lifecycle,
            metrics=metrics,
            worker_metrics=worker_metrics,
            probe=probe,
            queue=queue,
            hub=hub,
            blobs=BlobStore(redis, config, settings.blob_config, evicted=metrics.pictures_evicted.inc),
            catalogue=Catalogue(
                WorkerCards(redis, config), queue, retry_after=settings.retry_after, seen=metrics.know_model
            ),
            keys=keys,
            signer=signer,
            limiter=RateLimiter(redis, config.prefix),
            canary=canary,
            uploads=uploads,
            transcoding=FairLine(TRANSCODING_THREADS),
            webhook_hosts=hosts,
            parsing=CapacityLimiter(1),
        )


def _operation_id(route: APIRoute) -> str:
    return route.name
