"""The worker's threads: how many processor cores each computes with, and threads for calls that block.

Each Python thread that runs torch has a team of OpenMP threads of its own. GNU OpenMP counts the threads of all teams
in the process. While there are more of them than cores, no team waits for its next parallel loop by spinning: each of
the thousands of small loops of a step then costs two system calls. On two cores a second team doubles the duration of
the engine's steps, even while that team does nothing. So only engines have teams, which together have no more threads
than there are cores; the codec, palettes and the loading of weights compute with one thread each.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ONE = 1


def available() -> int:
    """The number of cores that torch would use here; 1 without torch."""
    torch = sys.modules.get("torch")
    return 1 if torch is None else int(torch.get_num_threads())


def compute_with(threads: int) -> None:
    """For the calling thread. Matrix products (MKL) have one number for the whole process, the last that was set: so an
    engine's thread sets its own after all others."""
    if (torch := sys.modules.get("torch")) is not None:
        # The first look copies the number that any thread has set last; without it, the first parallel loop would.
        torch.get_num_threads()
        torch.set_num_threads(threads)


def engine_cores(cores: int, engines: int, *, codec_busy: bool) -> int:
    """How many each engine computes with. While the codec works it has a core for itself: on a core that they shared,
    each parallel loop of a step would wait for the codec's turn to end."""
    return max(1, cores // engines - codec_busy)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """The calling thread computes without a team."""
    threads = available()
    compute_with(ONE)
    try:
        yield
    finally:
        compute_with(threads)


Call = tuple[Future[Any], Callable[[], Any]]


class BackgroundThread:
    """Runs calls that block, one at a time: two at once would only take cores from the engine's steps. The worker has
    one for the codec and one for palettes. A daemon thread, unlike those of a ThreadPoolExecutor, so that a call on a
    hung device does not keep the process alive."""

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
