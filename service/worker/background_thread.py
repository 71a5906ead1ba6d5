"""A thread for what blocks, beside the engine's: pictures are encoded and decoded in one, palettes made in another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any

Call = tuple[Future[Any], Callable[[], Any]]


class BackgroundThread:
    """One call at a time: two at once would only take cores from the steps. A daemon, unlike those of a
    ThreadPoolExecutor: a call that a hung device never ends must not keep the process."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What `work` returns or raises. Cancelled in time, it is not called at all."""
        future: Future[Any] = Future()
        self._calls.put((future, partial(work, *arguments)))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Ends the thread after the calls that still wait; does not wait."""
        self._calls.put(None)

    def join(self, seconds: float) -> None:
        """Waits for the thread's end, but no longer, and blocks."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, work = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                made = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(made)
