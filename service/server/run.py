"""Processes: the API alone, the worker alone, or both with a Valkey of their own; how each starts and leaves.

Leaving takes three steps. First nothing new is taken (`/readyz` says 503) and running jobs may finish; then whoever
still listens is let go; then the server that holds the queue stops, last of all. A second signal skips the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from service.jobs import BlobStore, Queue, WorkerCards, connect
from service.metrics import Metrics, serve_metrics
from service.server.app import Service, create_app
from service.server.embedded import EmbeddedServer, running_in
from service.server.http_server import METRICS_CONNECTIONS, HTTPServer, allow_open_files, http_server, metrics_alone
from service.server.listen import listen, port_errors
from service.server.startup import check_redis, print_status, startup_keys, wait_for_redis
from service.services import Lifecycle
from service.settings import Settings

log = logging.getLogger(__name__)

LEAVING = 15.0
"""Seconds after which what should have ended is cancelled."""

Work = Callable[[asyncio.Event], Awaitable[None]]


def serve(settings: Settings) -> int:
    """Everything in one process: a Valkey of our own unless one is given, the API, a worker. The exit status."""
    with contextlib.ExitStack() as stack:
        listeners = _listeners(settings, stack)
        url = settings.redis_address
        if url is None:
            url = stack.enter_context(EmbeddedServer(_own_server(settings)))
        late = None if asyncio.run(check_redis(url, settings)) else url
        metrics, lifecycle = Metrics(CollectorRegistry()), Lifecycle()
        ring = startup_keys(settings, listeners[0])
        app = create_app(settings, redis_url=url, metrics=metrics, lifecycle=lifecycle, keys=ring)
        worker = _worker(settings, url, metrics)
        return asyncio.run(_run(settings, lifecycle, late, work=worker, web=(app, listeners)))


def api(settings: Settings) -> int:
    """The API alone, over the Redis of somebody else."""
    url = _somebodys_redis(settings)
    if url is None:
        return 2
    with contextlib.ExitStack() as stack:
        listeners, lifecycle = _listeners(settings, stack), Lifecycle()
        late = None if asyncio.run(check_redis(url, settings)) else url
        ring = startup_keys(settings, listeners[0])
        app = create_app(settings, redis_url=url, lifecycle=lifecycle, keys=ring)
        return asyncio.run(_run(settings, lifecycle, late, work=None, web=(app, listeners)))


def worker(settings: Settings) -> int:
    """A worker alone, with its metrics on a port of its own."""
    url = _somebodys_redis(settings)
    if url is None:
        return 2
    metrics = Metrics(CollectorRegistry())
    with port_errors(settings.metrics_host, settings.metrics_port, "ARPG_METRICS_PORT"):
        server, _ = serve_metrics(metrics, settings.metrics_host, settings.metrics_port)
    print_status(f"metrics at http://{settings.metrics_host}:{server.server_port}/metrics")
    try:
        late = None if asyncio.run(check_redis(url, settings)) else url
        return asyncio.run(_run(settings, Lifecycle(), late, work=_worker(settings, url, metrics)))
    finally:
        server.shutdown()
        server.server_close()


def _listeners(settings: Settings, stack: contextlib.ExitStack) -> list[socket.socket]:
    """For the API, and for its metrics where they have a port of their own."""
    allow_open_files(settings.max_connections)
    opened = [stack.enter_context(listen(settings.host, settings.port, stalled=settings.stalled_timeout))]
    if "metrics_port" in settings.model_fields_set:
        extra = listen(settings.metrics_host, settings.metrics_port, setting="ARPG_METRICS_PORT")
        opened.append(stack.enter_context(extra))
    return opened


def _own_server(settings: Settings) -> Path:
    """Where `arpg serve` keeps its Valkey."""
    return settings.data_dir / "valkey"


def _somebodys_redis(settings: Settings) -> str | None:
    """The Redis that is named, else the one that an `arpg serve` keeps in the same data folder; else it says why."""
    if url := settings.redis_address or running_in(_own_server(settings)):
        return url
    folder = settings.data_dir.absolute()
    print_status(
        f"arpg: ARPG_REDIS_URL is not set, and no `arpg serve` that runs keeps its data in {folder} (ARPG_DATA_DIR)"
    )
    return None


def _worker(settings: Settings, url: str, metrics: Metrics) -> Work:
    async def work(stop: asyncio.Event) -> None:
        from service.worker import Worker
        from service.worker.engine_loading import load_engines

        began = time.monotonic()
        engines = []
        # Beside the server, which answers already.
        async for engine in load_engines(settings):
            if stop.is_set():
                return
            print_status(f"model {engine.model.name} is loaded after {time.monotonic() - began:.1f} s")
            engines.append(engine)
        redis = connect(url)
        config = settings.queue_config
        try:
            await Worker(
                engines,
                Queue(redis, config),
                BlobStore(redis, config, settings.blob_config),
                WorkerCards(redis, config),
                metrics,
                settings,
            ).run(stop)
        finally:
            await redis.aclose()

    return work


async def _run(
    settings: Settings,
    lifecycle: Lifecycle,
    late_redis: str | None,
    *,
    work: Work | None,
    web: tuple[Service, list[socket.socket]] | None = None,
) -> int:
    """Runs until a signal, or until something ends by itself, which is an error. late_redis: one that does not answer
    yet, and may turn out to be unsuitable."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            hurry.set()
            print_status("stopping at once")
        else:
            stop.set()
            print_status(f"draining: running jobs have {settings.grace:g} s to finish; Ctrl-C again stops at once")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)

    ends: list[asyncio.Future[Any]] = [asyncio.ensure_future(stop.wait())]
    looking = None
    if late_redis is not None:
        looking = asyncio.ensure_future(wait_for_redis(late_redis, settings, stop))
        ends.append(looking)
    servers: list[tuple[HTTPServer, asyncio.Future[None]]] = []
    working = None
    if web is not None:
        app, listeners = web
        apps = (
            http_server(app, settings, root_path=settings.root_path),
            http_server(metrics_alone(app), settings, lifespan=False, connections=METRICS_CONNECTIONS),
        )
        for http, listener, what in zip(apps, listeners, ("page, /docs, /metrics", "/metrics"), strict=False):
            servers.append((http, asyncio.ensure_future(http.serve(sockets=[listener]))))
            host, port = listener.getsockname()[:2]
            print_status(f"http://{f'[{host}]' if ':' in host else host}:{port}  — {what}")
        ends += [serving for _, serving in servers]
    if work is not None:
        working = asyncio.ensure_future(work(stop))
        ends.append(working)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    failed = not stop.is_set()
    lifecycle.draining = True
    stop.set()
    ends[0].cancel()
    if looking is not None:
        failed |= await _ended("the look at redis", looking, LEAVING)
    if working is not None:
        # It minds the grace itself, and then hands back what is not finished.
        failed |= await _ended("the worker", working, settings.grace + LEAVING, hurry)
    lifecycle.closing.set()
    for http, serving in servers:
        if hurry.is_set():
            http.config.timeout_graceful_shutdown = 1
        http.should_exit = True
        failed |= await _ended("the HTTP server", serving, LEAVING)
    return 1 if failed else 0


async def _ended(what: str, task: asyncio.Future[None], grace: float, hurry: asyncio.Event | None = None) -> bool:
    """Waits for a task to end, at most so many seconds, and no longer when there is a hurry. True: it failed."""
    hurrying = asyncio.ensure_future((hurry or asyncio.Event()).wait())
    either: set[asyncio.Future[Any]] = {task, hurrying}
    await asyncio.wait(either, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not task.done():
        log.warning("%s did not end in time", what)
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    except Exception as error:
        log.error("%s ended: %s: %s", what, type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))
        return True
    return False
