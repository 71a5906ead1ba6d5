"""The thread that runs the codec, beside the engine's steps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from service.worker.threads.background import BackgroundThreads, settle, show_name
from service.worker.threads.cores import ONE, compute_with
from service.worker.threads.picture_queue import Kind, PictureQueue

if TYPE_CHECKING:
    from engine.codec.codec import Codec


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A full token map (rows, cols) to be decoded, and what makes the result of its picture."""

    future: Future[Any]
    codec: Codec
    tokens: np.ndarray
    finish: Callable[[np.ndarray], Any]

    def fits(self, other: Drawn | Call) -> bool:
        """Whether they can be decoded in one call."""
        return isinstance(other, Drawn) and self.codec is other.codec and self.tokens.shape == other.tokens.shape


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    future: Future[Any]
    work: Callable[[], Any]


class CodecThread:
    """Decodes together what waits and has one size, at most `codec.together` pictures. What becomes of a decoded
    picture is made on `coders` more threads; with none, here.

    Work is done in the order of `PictureQueue`. No work takes long: large pictures have threads of their own. A daemon
    thread: see BackgroundThreads. busy: whether it works, or will at once.
    """

    def __init__(self, coders: int) -> None:
        self._work: PictureQueue[Drawn | Call] = PictureQueue()
        self._wake = threading.Condition()
        self._closing = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="codec", daemon=True)
        self._coders = BackgroundThreads("codec", coders) if coders else None
        self.busy = False

    def start(self) -> None:
        """Returns when the thread has set how many cores it computes with."""
        self._thread.start()
        self._ready.wait()
        if self._coders is not None:
            self._coders.start()

    async def picture(self, client: str, codec: Codec, tokens: np.ndarray, finish: Callable[[np.ndarray], Any]) -> Any:
        """What `finish` makes of the picture uint8 (H, W, 3) of a full token map (rows, cols)."""
        return await self._done("finished", client, Drawn(Future(), codec, tokens, finish))

    async def call(self, kind: Kind, client: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """Returns or raises what `work` does. As with `picture`, work that is cancelled before it begins is not
        done."""
        return await self._done(kind, client, Call(Future(), partial(work, *arguments)))

    def close(self) -> None:
        """Ends the threads after the work that waits. Returns at once."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    async def _done(self, kind: Kind, client: str, work: Drawn | Call) -> Any:
        with self._wake:
            self._work.put(kind, client, work)
            self._wake.notify()
        return await asyncio.wrap_future(work.future)

    def _run(self) -> None:
        show_name()
        compute_with(ONE)
        self._ready.set()
        while taken := self._take():
            begun = [one for one in taken if one.future.set_running_or_notify_cancel()]
            if begun and isinstance(begun[0], Call):
                settle(begun[0].future, begun[0].work)
            elif begun:
                self._decode(begun)  # type: ignore[arg-type]  # all of a kind
        if self._coders is not None:
            self._coders.close()

    def _take(self) -> list[Drawn | Call]:
        """What is done next: pictures that fit together, or one call. Empty: nothing will come any more."""
        with self._wake:
            while not self._work:
                self.busy = False
                if self._closing:
                    return []
                self._wake.wait()
            self.busy = True
            first = self._work.take()
            if isinstance(first, Call):
                return [first]
            return [first, *self._work.take_more("finished", first.fits, first.codec.together - 1)]

    def _decode(self, drawn: list[Drawn]) -> None:
        try:
            pictures = drawn[0].codec.decode_many([one.tokens for one in drawn])
        except Exception as error:
            if len(drawn) == 1:
                drawn[0].future.set_exception(error)
                return
            for one in drawn:  # there may be memory enough for one at a time
                self._decode([one])
            return
        for one, picture in zip(drawn, pictures, strict=True):
            work = partial(one.finish, picture)
            if self._coders is None:
                settle(one.future, work)
            else:
                self._coders.put(one.future, work)
