"""Threads for large pictures, so that no other picture waits for one, and a limit to the memory that they take."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from service.worker.threads.background import BackgroundThreads
from service.worker.threads.memory import give_back_freed_memory
from service.worker.threads.picture_queue import Kind, PictureQueue

LARGE = 2**19
"""Pixels. To composite and write a picture of fewer takes one core less than half a second."""

BYTES_PER_PIXEL = 24
"""What a picture takes, above the rest of the process, while it is composited and written (measured: up to 18)."""


class LargePictures:
    """Large pictures have turns: as many at once as there are threads, while `memory` bytes are enough for all; a
    picture that alone needs more is worked on alone. For the event loop. busy: whether a picture has a turn."""

    def __init__(self, threads: int, memory: int) -> None:
        self._threads = BackgroundThreads("pictures", threads)
        self._most = threads
        self._memory = memory
        self._waiting: PictureQueue[tuple[asyncio.Future[None], int]] = PictureQueue()
        self._having: list[int] = []  # the bytes of each picture that has a turn

    def start(self) -> None:
        """Returns when the threads have set how many cores they compute with."""
        self._threads.start()

    def close(self) -> None:
        """Ends the threads after the work that waits. Returns at once."""
        self._threads.close()

    @property
    def busy(self) -> bool:
        return bool(self._having)

    @contextlib.asynccontextmanager
    async def turn(self, kind: Kind, client: str, pixels: int) -> AsyncIterator[Turn]:
        """Waits for a turn, and ends it. A turn that is cancelled ends when its thread is done."""
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        size = pixels * BYTES_PER_PIXEL
        self._waiting.put(kind, client, (begun, size))
        self._begin()
        try:
            await begun
        except asyncio.CancelledError:
            if not begun.cancelled():  # it had begun
                self._end(size)
            raise
        turn = Turn(self._threads)
        try:
            yield turn
        finally:
            turn.then(partial(self._end, size))

    def _begin(self) -> None:
        while self._waiting:
            begun, size = self._waiting.peek()
            full = len(self._having) == self._most or sum(self._having) + size > self._memory
            if self._having and full and not begun.done():
                return
            self._waiting.take()
            if not begun.done():  # cancelled
                self._having.append(size)
                self._threads.put(Future(), give_back_freed_memory)
                begun.set_result(None)

    def _end(self, size: int) -> None:
        self._having.remove(size)
        self._threads.put(Future(), give_back_freed_memory)
        self._begin()


class Turn:
    """One picture's."""

    def __init__(self, threads: BackgroundThreads) -> None:
        self._threads = threads
        self._running: Future[Any] | None = None

    async def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Returns or raises what `work` does, on a thread. One call at a time."""
        self._running = Future()
        self._threads.put(self._running, partial(work, *arguments))
        return await asyncio.wrap_future(self._running)

    def then(self, end: Callable[[], None]) -> None:
        """Calls `end` as soon as no thread works for this turn."""
        loop = asyncio.get_running_loop()
        if self._running is None or self._running.done():
            end()
        else:
            self._running.add_done_callback(lambda _: _call_soon(loop, end))


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has closed
        loop.call_soon_threadsafe(call)
