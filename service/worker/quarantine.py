"""What the lanes of a worker agree on, so that a crash suspect is drawn with nothing beside it."""

from __future__ import annotations

import asyncio

from service.queue import Claims
from service.queue.contract import Attempt


class Quarantine:
    """Lanes claim one after another, each in its `turn`: whether the worker is empty stays true until the answer."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self._held: set[Attempt] = set()  # until their engine says that nothing of them is left
        self._suspect: Attempt | None = None
        self._emptying: str | None = None  # the model that has a suspect, for which the worker becomes empty
        self._open = asyncio.Event()
        self._open.set()

    @property
    def empty(self) -> bool:
        """Whether the worker holds nothing at all."""
        return not self._held

    @property
    def lonely(self) -> bool:
        """Whether a single job is in its engines, or was when they took the last step."""
        return len(self._held) == 1

    def may_claim(self, model: str) -> bool:
        """Not beside a suspect, and not while another model waits for the worker to become empty."""
        return self._suspect is None and self._emptying in (None, model)

    async def opened(self) -> None:
        """Until every lane may claim."""
        await self._open.wait()

    def answered(self, model: str, claims: Claims) -> None:
        self._emptying = model if claims.become_empty else None
        self._show()

    def hold(self, job: Attempt, *, alone: bool) -> None:
        self._held.add(job)
        if alone:
            self._suspect = job
        self._show()

    def leave(self, job: Attempt) -> None:
        self._held.discard(job)
        if self._suspect == job:
            self._suspect = None
        self._show()

    def _show(self) -> None:
        if self._suspect is None and self._emptying is None:
            self._open.set()
        else:
            self._open.clear()
