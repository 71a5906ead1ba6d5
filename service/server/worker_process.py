"""The worker of `arpg serve`, as a process of its own.

In one process the API's event loop and the engine's thread would wait for each other's Python lock, which costs a tenth
of the pictures at 16 clients on two cores; and a crash of the engine would end the API. The two processes share a pipe.
Through it the worker gets its settings, and the API the worker's metrics. When the API's process ends, however it does,
the pipe closes and the worker ends, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from prometheus_client import Metric

from service.metrics.worker_series import WorkerSeries
from service.settings import Settings

log = logging.getLogger(__name__)

STOP_SECONDS = 10.0
"""How long a worker that shall stop at once may take for it."""

PATIENCE = 2.0
"""Seconds that a scrape waits for the worker's metrics."""

LONGEST_PAUSE = 5.0


class WorkerEnded(RuntimeError):
    """The worker ended by itself. It has logged why."""


class WorkerProcess:
    """Starts the worker, and another one when a signal has killed it: a crash in native code, or a system without
    memory. The queue gives a killed worker's jobs to the next, and sets jobs apart that kill several."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        self._settings = settings
        self._redis_url = redis_url
        self._pipe: Connection | None = None
        self._asking = asyncio.Lock()
        self._series = WorkerSeries()
        self.serving = asyncio.Event()  # set once the API knows the models of the first worker that loaded them

    async def run(self, stop: asyncio.Event) -> None:
        """Runs the worker until `stop`, then lets it drain; if cancelled, stops it at once. Raises WorkerEnded."""
        pause = 0.1
        while not stop.is_set():
            began = time.monotonic()
            status = await self._run_once(stop)
            if stop.is_set():
                return
            if status >= 0:
                raise WorkerEnded(f"exit status {status}")
            pause = 0.1 if time.monotonic() - began > 30 else min(2 * pause, LONGEST_PAUSE)
            log.error("signal %d killed the worker: another one starts", -status)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)

    async def metrics(self) -> list[Metric]:
        """The worker's series; while it starts or does not respond, only what it and those before it counted."""
        async with self._asking:
            pipe = self._pipe
            if pipe is None:
                return self._series.unanswered()
            try:
                answer = await asyncio.to_thread(_ask, pipe)
            except (OSError, EOFError, TimeoutError) as error:
                log.warning("the worker's gauges are missing: %s: %s", type(error).__name__, error)
                return self._series.unanswered()
            if pipe is not self._pipe:  # it ended meanwhile
                return self._series.unanswered()
            return self._series.answered(answer)

    def _is_told(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        if os.read(descriptor, 1):  # nothing: the worker has ended
            self.serving.set()

    async def _run_once(self, stop: asyncio.Event) -> int:
        ours, theirs = Pipe()
        tells, told = Pipe(duplex=False)
        loop = asyncio.get_running_loop()
        with ours, tells:
            with theirs, told:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "service.server.worker_main", str(theirs.fileno()), str(told.fileno()),
                    stdin=DEVNULL, pass_fds=(theirs.fileno(), told.fileno()),
                    start_new_session=True,  # a Ctrl-C in the terminal reaches only the API, which passes it on once
                )  # fmt: skip
            ours.send((self._settings, self._redis_url))
            loop.add_reader(tells.fileno(), self._is_told, tells.fileno())
            self._pipe = ours
            stopping = asyncio.ensure_future(stop.wait())
            ended = asyncio.ensure_future(process.wait())
            try:
                await asyncio.wait((stopping, ended), return_when=asyncio.FIRST_COMPLETED)
                _terminate(process)
                return await asyncio.shield(ended)
            except asyncio.CancelledError:
                _terminate(process)  # the second signal means: at once
                await asyncio.wait((ended,), timeout=STOP_SECONDS)
                raise
            finally:
                loop.remove_reader(tells.fileno())
                self._pipe = None
                self._series.worker_ended()
                stopping.cancel()
                if not ended.done():
                    process.kill()
                    await ended


def _ask(pipe: Connection) -> list[Metric]:
    """Blocks. Raises OSError, EOFError, and TimeoutError where no answer comes in time."""
    while pipe.poll():  # an answer that came too late
        pipe.recv()
    pipe.send(None)
    if not pipe.poll(PATIENCE):
        raise TimeoutError(f"no answer within {PATIENCE:g} s")
    answer: list[Metric] = pipe.recv()
    return answer


def _terminate(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
