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
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from service.api.services import Lifecycle
from service.app import create_app
from service.embedded import EmbeddedServer, running_in
from service.listen import listen, taking
from service.metrics import Metrics, serve_metrics
from service.queue import Blobs, Cards, Queue, connect
from service.settings import Settings

log = logging.getLogger(__name__)

LEAVING = 15.0
"""Seconds after which what should have ended is cancelled."""

Work = Callable[[asyncio.Event], Awaitable[None]]


class HTTPServer(uvicorn.Server):
    """uvicorn without its own idea of signals: they are ours, and there is more than it to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def serve(settings: Settings) -> int:
    """Everything in one process: a Valkey of our own unless one is given, the API, a worker. The exit status."""
    listener = listen(settings.host, settings.port)
    with listener, contextlib.ExitStack() as stack:
        url = settings.redis_address
        if url is None:
            url = stack.enter_context(EmbeddedServer(_own_server(settings)))
        metrics, lifecycle = Metrics(CollectorRegistry()), Lifecycle()
        app = create_app(settings, redis_url=url, metrics=metrics, lifecycle=lifecycle)
        worker = _worker(settings, url, metrics)
        return asyncio.run(_run(settings, lifecycle, work=worker, web=(app, listener)))


def api(settings: Settings) -> int:
    """The API alone, over the Redis of somebody else."""
    url = _somebodys_redis(settings)
    if url is None:
        return 2
    listener, lifecycle = listen(settings.host, settings.port), Lifecycle()
    with listener:
        app = create_app(settings, redis_url=url, lifecycle=lifecycle)
        return asyncio.run(_run(settings, lifecycle, work=None, web=(app, listener)))


def worker(settings: Settings) -> int:
    """A worker alone, with its metrics on a port of its own."""
    url = _somebodys_redis(settings)
    if url is None:
        return 2
    metrics = Metrics(CollectorRegistry())
    with taking(settings.metrics_port, "ARPG_METRICS_PORT"):
        server, _ = serve_metrics(metrics, settings.metrics_host, settings.metrics_port)
    say(f"metrics at http://{settings.metrics_host}:{server.server_port}/metrics")
    try:
        return asyncio.run(_run(settings, Lifecycle(), work=_worker(settings, url, metrics)))
    finally:
        server.shutdown()
        server.server_close()


def _own_server(settings: Settings) -> Path:
    """Where `arpg serve` keeps its Valkey."""
    return settings.data_dir / "valkey"


def _somebodys_redis(settings: Settings) -> str | None:
    """The Redis that is named, else the one that an `arpg serve` keeps in the same data folder; else it says why."""
    if url := settings.redis_address or running_in(_own_server(settings)):
        return url
    folder = settings.data_dir.absolute()
    say(f"arpg: ARPG_REDIS_URL is not set, and no `arpg serve` that runs keeps its data in {folder} (ARPG_DATA_DIR)")
    return None


def _worker(settings: Settings, url: str, metrics: Metrics) -> Work:
    async def work(stop: asyncio.Event) -> None:
        from service.worker import Worker
        from service.worker.engines import load_engines

        began = time.monotonic()
        engines = []
        # Beside the server, which answers already.
        async for engine in load_engines(settings):
            if stop.is_set():
                return
            say(f"model {engine.model.name} is loaded after {time.monotonic() - began:.1f} s")
            engines.append(engine)
        redis = connect(url)
        config = settings.queue_config
        try:
            await Worker(
                engines,
                Queue(redis, config),
                Blobs(redis, config, settings.blob_config),
                Cards(redis, config),
                metrics,
                settings,
            ).run(stop)
        finally:
            await redis.aclose()

    return work


async def _run(
    settings: Settings,
    lifecycle: Lifecycle,
    *,
    work: Work | None,
    web: tuple[FastAPI, socket.socket] | None = None,
) -> int:
    """Runs until a signal, or until something ends by itself, which is an error."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            hurry.set()
            say("stopping at once")
        else:
            stop.set()
            say(f"draining: running jobs have {settings.grace:g} s to finish; Ctrl-C again stops at once")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)

    ends: list[asyncio.Future[Any]] = [asyncio.ensure_future(stop.wait())]
    http, serving, working = None, None, None
    if web is not None:
        app, listener = web
        http = _http(app, settings.root_path)
        serving = asyncio.ensure_future(http.serve(sockets=[listener]))
        ends.append(serving)
        host, port = listener.getsockname()[:2]
        say(f"http://{f'[{host}]' if ':' in host else host}:{port}  — page, /docs, /metrics")
    if work is not None:
        working = asyncio.ensure_future(work(stop))
        ends.append(working)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    failed = not stop.is_set()
    lifecycle.draining = True
    stop.set()
    ends[0].cancel()
    if working is not None:
        # It minds the grace itself, and then hands back what is not finished.
        failed |= await _ended("the worker", working, settings.grace + LEAVING, hurry)
    lifecycle.closing.set()
    if http is not None and serving is not None:
        if hurry.is_set():
            http.config.timeout_graceful_shutdown = 1
        http.should_exit = True
        failed |= await _ended("the HTTP server", serving, LEAVING)
    return 1 if failed else 0


def _http(app: FastAPI, root_path: str) -> HTTPServer:
    return HTTPServer(
        uvicorn.Config(
            app,
            root_path=root_path,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=5,
            proxy_headers=False,
            log_level="warning",
        )
    )


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
