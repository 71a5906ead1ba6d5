"""How the processes start and shut down: the API, the worker, or both with an embedded Valkey.

Shutdown takes three steps. First the server accepts no new jobs (`/readyz` answers 503), and running jobs may finish.
Then it ends the open streams and connections. Last it stops the embedded Valkey. A second signal skips the waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from service import logs
from service.jobs import BlobStore, Queue, WorkerCards, connect
from service.metrics import Metrics, serve_metrics
from service.server.app import Service, create_app
from service.server.embedded import EmbeddedServer, running_in
from service.server.http_server import METRICS_CONNECTIONS, HTTPServer, allow_open_files, http_server, metrics_app
from service.server.listen import listen, port_errors
from service.server.startup import check_redis, startup_keys, wait_for_redis
from service.server.worker_process import WorkerProcess
from service.services import Lifecycle
from service.settings import Settings

log = logging.getLogger(__name__)

STOP_TIMEOUT = 15.0
"""Seconds that a part of the process may take to end; then it is cancelled."""

Work = Callable[[asyncio.Event], Awaitable[None]]


def serve(settings: Settings) -> int:
    """`arpg serve`: the API, a worker as a child process, and an embedded Valkey unless the settings name a Redis.

    Returns the exit status, as `api` and `worker` do.
    """
    with contextlib.ExitStack() as stack:
        listeners = _listeners(settings, stack)
        url = settings.redis_address
        if url is None:
            port = listeners[0].getsockname()[1]
            url = stack.enter_context(EmbeddedServer(_embedded_folder(settings), http_port=port))
        unchecked = None if asyncio.run(check_redis(url, settings)) else url
        lifecycle, worker = Lifecycle(), WorkerProcess(settings, url)
        keys = startup_keys(settings, listeners[0])
        app = create_app(settings, redis_url=url, lifecycle=lifecycle, keys=keys, worker_metrics=worker.metrics)
        _say_loading(settings)
        running = _run(
            settings, lifecycle, unchecked, work=worker.run, web=(app, listeners), worker_serves=worker.serving
        )
        return asyncio.run(running)


def api(settings: Settings) -> int:
    """`arpg api`: the API without a worker."""
    url = _shared_redis(settings)
    if url is None:
        return 2
    with contextlib.ExitStack() as stack:
        listeners, lifecycle = _listeners(settings, stack), Lifecycle()
        unchecked = None if asyncio.run(check_redis(url, settings)) else url
        keys = startup_keys(settings, listeners[0])
        app = create_app(settings, redis_url=url, lifecycle=lifecycle, keys=keys)
        return asyncio.run(_run(settings, lifecycle, unchecked, work=None, web=(app, listeners)))


def worker(settings: Settings) -> int:
    """`arpg worker`: a worker without the API, with its metrics on a port of its own."""
    url = _shared_redis(settings)
    if url is None:
        return 2
    metrics = Metrics(CollectorRegistry())
    with port_errors(settings.metrics_host, settings.metrics_port, "ARPG_METRICS_PORT"):
        server, _ = serve_metrics(metrics, settings.metrics_host, settings.metrics_port)
    _say_listening(settings.metrics_host, server.server_port, "/metrics")
    _say_loading(settings)
    try:
        unchecked = None if asyncio.run(check_redis(url, settings)) else url
        return run_worker(settings, url, metrics, unchecked)
    finally:
        server.shutdown()
        server.server_close()


def run_worker(
    settings: Settings,
    url: str,
    metrics: Metrics,
    unchecked_redis: str | None = None,
    *,
    quiet: bool = False,
    serving: Callable[[], None] = lambda: None,
) -> int:
    """A worker in this process. quiet: its parent tells the user of signals. serving: see Worker."""
    work = _worker(settings, url, metrics, serving)
    return asyncio.run(_run(settings, Lifecycle(), unchecked_redis, work=work, quiet=quiet))


def _listeners(settings: Settings, stack: contextlib.ExitStack) -> list[socket.socket]:
    """The API's socket; and a second one if its metrics have a port of their own."""
    allow_open_files(settings.max_connections)
    opened = [stack.enter_context(listen(settings.host, settings.port, stalled=settings.stalled_timeout))]
    if "metrics_port" in settings.model_fields_set:
        extra = listen(settings.metrics_host, settings.metrics_port, setting="ARPG_METRICS_PORT")
        opened.append(stack.enter_context(extra))
    return opened


def _embedded_folder(settings: Settings) -> Path:
    """The data folder of the embedded Valkey."""
    return settings.data_dir / "valkey"


def _shared_redis(settings: Settings) -> str | None:
    """The Redis of the settings, else the embedded one of an `arpg serve` with the same data folder.

    None: there is neither; an error is printed.
    """
    if url := settings.redis_address or running_in(_embedded_folder(settings)):
        return url
    folder = settings.data_dir.absolute()
    logs.status(
        f"arpg: no Redis: set ARPG_REDIS_URL, or run `arpg serve` with the same data folder, {folder} (ARPG_DATA_DIR)"
    )
    return None


def _worker(settings: Settings, url: str, metrics: Metrics, serving: Callable[[], None]) -> Work:
    async def work(stop: asyncio.Event) -> None:
        from service.worker import Worker
        from service.worker.engine_loading import load_engines, reload_engine

        began = time.monotonic()
        engines = []
        # While the models load, the HTTP server answers already.
        async for engine in load_engines(settings):
            if stop.is_set():
                return
            logs.status(f"model {engine.model.name} is loaded after {time.monotonic() - began:.1f} s")
            engines.append(engine)
        redis = connect(url)
        config = settings.queue_config
        try:
            await Worker(
                engines,
                Queue(redis, config),
                BlobStore(redis, config, settings.blob_config, evicted=metrics.pictures_evicted.inc),
                WorkerCards(redis, config),
                metrics,
                settings,
                partial(reload_engine, settings),
                serving=serving,
            ).run(stop)
        finally:
            await redis.aclose()

    return work


async def _run(
    settings: Settings,
    lifecycle: Lifecycle,
    unchecked_redis: str | None,
    *,
    work: Work | None,
    web: tuple[Service, list[socket.socket]] | None = None,
    worker_serves: asyncio.Event | None = None,
    quiet: bool = False,
) -> int:
    """Runs until a signal, or until a part ends by itself, which is an error. Returns the exit status.

    unchecked_redis: the URL of a Redis that did not respond yet; it is checked as soon as it does. worker_serves: set
    once this server's own worker serves; the addresses are told then. None: there is none; they are told at once.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    say = (lambda _: None) if quiet else logs.status

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
    checking = None
    if unchecked_redis is not None:
        checking = asyncio.ensure_future(wait_for_redis(unchecked_redis, settings, stop))
        ends.append(checking)
    servers: list[tuple[HTTPServer, asyncio.Future[None]]] = []
    working = telling = None
    if web is not None:
        app, listeners = web
        apps = (
            http_server(app, settings, root_path=settings.root_path),
            http_server(metrics_app(app), settings, lifespan=False, connections=METRICS_CONNECTIONS),
        )
        # A full garbage collection stops the event loop for as long as it looks at objects; those made so far stay.
        gc.collect()
        gc.freeze()
        for http, listener in zip(apps, listeners, strict=False):
            servers.append((http, asyncio.ensure_future(http.serve(sockets=[listener]))))
        telling = asyncio.ensure_future(_tell_addresses(app, listeners, worker_serves))
        ends += [serving for _, serving in servers]
    if work is not None:
        working = asyncio.ensure_future(work(stop))
        ends.append(working)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    failed = not stop.is_set()
    lifecycle.draining = True
    stop.set()
    ends[0].cancel()
    if telling is not None:
        telling.cancel()
    if checking is not None:
        failed |= await _ended("the check of redis", checking, STOP_TIMEOUT)
    if working is not None:
        # The worker itself waits for the grace, and then returns unfinished jobs to the queue.
        failed |= await _ended("the worker", working, settings.grace + STOP_TIMEOUT, hurry)
    lifecycle.closing.set()
    for http, serving in servers:
        if hurry.is_set():
            http.config.timeout_graceful_shutdown = 1
        http.should_exit = True
        failed |= await _ended("the HTTP server", serving, STOP_TIMEOUT)
    return 1 if failed else 0


async def _tell_addresses(app: Service, listeners: list[socket.socket], worker_serves: asyncio.Event | None) -> None:
    if worker_serves is not None:
        await worker_serves.wait()
        if app.services is not None:  # a request may have found no worker a moment ago
            app.services.catalogue.read_again()
    for listener, what in zip(listeners, ("page, /docs, /metrics", "/metrics"), strict=False):
        host, port = listener.getsockname()[:2]
        _say_listening(host, port, what, verb="listening" if worker_serves is None else "ready")


def _say_listening(host: str, port: int, what: str, *, verb: str = "listening") -> None:
    logs.status(f"{verb} at http://{f'[{host}]' if ':' in host else host}:{port}  — {what}")


def _say_loading(settings: Settings) -> None:
    logs.status(f"loading {', '.join(settings.models)} …")


async def _ended(what: str, task: asyncio.Future[None], grace: float, hurry: asyncio.Event | None = None) -> bool:
    """Waits until a task ends; cancels it after `grace` seconds, or when `hurry` is set. True: the task failed."""
    hurrying = asyncio.ensure_future((hurry or asyncio.Event()).wait())
    either: set[asyncio.Future[Any]] = {task, hurrying}
    await asyncio.wait(either, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not task.done():
        log.warning("%s did not end in time and is cancelled", what)
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    except Exception as error:
        log.error("%s ended: %s: %s", what, type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))
        return True
    return False
