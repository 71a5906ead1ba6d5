"""A thread for calls that block: the worker has one for the codec and one for palettes."""

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

from service.worker.compute_threads import ONE, compute_with

Call = tuple[Future[Any], Callable[[], Any]]


class BackgroundThread:
    """Runs one call at a time: two at once would only take cores from the engine's steps. A daemon thread, unlike those
    of a ThreadPoolExecutor, so that a call on a hung device does not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._ready = threading.Event()
        self.busy = False

    def start(self) -> None:
        """Returns when the thread has set how many cores it computes with."""
        self._thread.start()
        self._ready.wait()

    async def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Returns or raises what `work` does. A call that is cancelled before it begins does not run."""
        future: Future[Any] = Future()
        self._calls.put((future, partial(work, *arguments)))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Ends the thread after the calls that are queued. Returns at once."""
        self._calls.put(None)

    def join(self, seconds: float) -> None:
        """Blocks until the thread has ended, at most so many seconds."""
        self._thread.join(seconds)

    def _run(self) -> None:
        show_name()
        compute_with(ONE)
        self._ready.set()
        while (call := self._calls.get()) is not None:
            future, work = call
            if not future.set_running_or_notify_cancel():
                continue
            self.busy = True
            try:
                made = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(made)
            self.busy = not self._calls.empty()


def show_name() -> None:
    """Gives the system the name of this thread, for `top -H` and `arpg bench serve`; Python does so only from 3.14 on.
    The OpenMP threads that it starts get the same name."""
    with contextlib.suppress(OSError):
        Path("/proc/thread-self/comm").write_text(threading.current_thread().name)
