"""Threads for calls that block."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from service.worker.threads.cores import ONE, compute_with

Call = tuple[Future[Any], Callable[[], Any]]


class BackgroundThreads:
    """Run calls that block, as many at a time as there are threads, each on one core. Daemon threads, unlike those of a
    ThreadPoolExecutor, so that a call on a hung device does not keep the process alive."""

    def __init__(self, name: str, count: int = 1) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._ready = threading.Barrier(count + 1)
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for _ in range(count)]

    def start(self) -> None:
        """Returns when each thread has set how many cores it computes with."""
        for thread in self._threads:
            thread.start()
        self._ready.wait()

    async def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Returns or raises what `work` does. A call that is cancelled before it begins does not run."""
        future: Future[Any] = Future()
        self.put(future, partial(work, *arguments))
        return await asyncio.wrap_future(future)

    def put(self, future: Future[Any], work: Callable[[], Any]) -> None:
        """As `call`, from any thread. future: takes what `work` returns or raises."""
        self._calls.put((future, work))

    def close(self) -> None:
        """Ends the threads after the calls that are queued. Returns at once."""
        for _ in self._threads:
            self._calls.put(None)

    def join(self, seconds: float) -> None:
        """Blocks until the threads have ended, at most so many seconds for each."""
        for thread in self._threads:
            thread.join(seconds)

    def _run(self) -> None:
        show_name()
        compute_with(ONE)
        self._ready.wait()
        while (call := self._calls.get()) is not None:
            future, work = call
            if future.running() or future.set_running_or_notify_cancel():
                settle(future, work)


def settle(future: Future[Any], work: Callable[[], Any]) -> None:
    """Gives the future what `work` returns or raises. The future is running."""
    try:
        made = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(made)


def show_name() -> None:
    """Gives the system the name of this thread, for `top -H` and `arpg bench serve`; Python does so only from 3.14 on.
    The OpenMP threads that it starts get the same name."""
    with contextlib.suppress(OSError):
        Path("/proc/thread-self/comm").write_text(threading.current_thread().name)
