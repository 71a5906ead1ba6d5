"""Requests that arrive whether or not the earlier ones are drawn, and the rate that a drawer sustains.

The clock counts the time that the drawer works and skips the time that it waits for requests. So a run takes only as
long as its work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from engine.bench.static_batch.loop import StaticBatchLoop, settings_of
from engine.core.engine import Engine
from engine.request import Request

LATE_SHARE = 0.05
"""A rate is sustained while at most this share of the requests take longer than the limit."""
PRECISION = 1.05
"""Ratio of the lowest rate that is not sustained to the highest that is, at the end of the search."""

SEARCHED = 32.0
STRIDE = 1.1
"""The second rate to try is this many times the first, or the first divided by it; each further stride is the square of
the one before. So few runs are needed when the guess is close."""


class Drawer(Protocol):
    def add(self, index: int, request: Request, now: float) -> None:
        """A request arrives."""

    def ready_at(self, now: float) -> float:
        """When there is work to do: now, later, or infinity without requests."""

    def advance(self, now: float) -> tuple[list[int], float]:
        """Do one piece of work: the requests that it finishes, and how many seconds it takes."""

    def close(self) -> None:
        """Drop all requests."""


class EngineDrawer:
    """A piece of work is a step; requests join at the next one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._indices: dict[int, int] = {}
        self._adding = 0.0

    def add(self, index: int, request: Request, now: float) -> None:
        start = time.perf_counter()
        self._indices[self._engine.add(request)] = index
        self._adding += time.perf_counter() - start

    def ready_at(self, now: float) -> float:
        return math.inf if self._engine.idle else now

    def advance(self, now: float) -> tuple[list[int], float]:
        start = time.perf_counter()
        finished = [self._indices.pop(output.id) for output in self._engine.step() if output.finished]
        took = time.perf_counter() - start + self._adding
        self._adding = 0.0
        return finished, took

    def close(self) -> None:
        for request_id in self._indices:
            self._engine.abort(request_id)
        while not self._engine.idle:
            self._engine.step()


class BatchDrawer:
    """A piece of work is a batch of requests with equal settings, which nothing joins. The group that waited longest
    goes first, once its oldest request has waited for `wait` seconds.

    seconds: how long a batch takes; None: it is drawn and timed.
    """

    def __init__(
        self, loop: StaticBatchLoop, wait: float, seconds: Callable[[Sequence[Request]], float] | None = None
    ) -> None:
        self._loop = loop
        self._wait = wait
        self._seconds = seconds or self._draw
        self._groups: dict[tuple[Any, ...], list[tuple[float, int, Request]]] = {}

    def add(self, index: int, request: Request, now: float) -> None:
        self._groups.setdefault(settings_of(request), []).append((now, index, request))

    def ready_at(self, now: float) -> float:
        return max(now, min((group[0][0] + self._wait for group in self._groups.values()), default=math.inf))

    def advance(self, now: float) -> tuple[list[int], float]:
        group = self._groups.pop(min(self._groups, key=lambda settings: self._groups[settings][0][0]))
        took = self._seconds([request for _, _, request in group])
        return [index for _, index, _ in group], took

    def close(self) -> None:
        self._groups.clear()

    def _draw(self, requests: Sequence[Request]) -> float:
        start = time.perf_counter()
        self._loop.draw_batch(requests)
        return time.perf_counter() - start


def latencies(
    drawer: Drawer, requests: Sequence[Request], arrivals: Sequence[float], limit: float = math.inf
) -> list[float] | None:
    """Seconds from the arrival to the end of each request. None as soon as too many take longer than the limit."""
    taken = [math.nan] * len(requests)
    unfinished: set[int] = set()
    now, arrived, late = 0.0, 0, 0
    while arrived < len(requests) or unfinished:
        while arrived < len(requests) and arrivals[arrived] <= now:
            drawer.add(arrived, requests[arrived], arrivals[arrived])
            unfinished.add(arrived)
            arrived += 1
        upcoming = arrivals[arrived] if arrived < len(requests) else math.inf
        if (ready := drawer.ready_at(now)) > now:
            now = min(ready, upcoming)
            continue
        finished, took = drawer.advance(now)
        now += took
        for index in finished:
            taken[index] = now - arrivals[index]
            late += taken[index] > limit
        unfinished.difference_update(finished)
        if late + sum(now - arrivals[index] > limit for index in unfinished) > LATE_SHARE * len(requests):
            drawer.close()
            return None
    return taken


def sustained_rate(
    make: Callable[[], Drawer], requests: Sequence[Request], arrivals: Sequence[float], limit: float, guess: float
) -> float:
    """The highest rate, in requests a second, at which nineteen in twenty take no longer than the limit. arrivals: at
    one a second. guess: where the search begins; it ends at SEARCHED times this rate, and at this rate / SEARCHED."""

    def sustains(rate: float) -> bool:
        return latencies(make(), requests, [moment / rate for moment in arrivals], limit) is not None

    low, high, rate, stride = guess / SEARCHED, guess * SEARCHED, guess, STRIDE
    while high / low > PRECISION:
        low, high = (rate, high) if sustains(rate) else (low, rate)
        rate = min(max(math.sqrt(low * high), rate / stride), rate * stride)
        stride *= stride
    return low
