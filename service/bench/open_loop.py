"""Open loop: Poisson arrivals at a rate, which is raised until goodput collapses.

A request's time runs from its arrival by the plan, not from when the client got round to sending it; how late the
client was is told apart. Goodput counts the requests that were answered, picture fetched, within `LIMIT` times what a
lone request of the same kind takes.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from service.bench.figures import percentiles
from service.bench.mix import Drawn, Mix
from service.bench.process import Served
from service.bench.web import Connection

LIMIT = 3.0
LONE_ROUNDS = 3
GROWTH = 1.25
COLLAPSED = 0.5
"""The sweep ends when less than this part of the arrivals counts as good."""
WAIT = 60
"""Seconds that the service keeps a request waiting for its job (`Prefer: wait`)."""


@dataclass(slots=True)
class Sample:
    kind: str
    seconds: float
    late: float
    queue: float
    first_tokens: float


@dataclass(slots=True)
class Samples:
    answered: list[Sample] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def sweep(served: Served, mix: Mix, *, first_rate: float | None, seconds: float, most: int = 12) -> dict[str, Any]:
    """first_rate: arrivals a second; None: half of what lone requests one after another would reach."""
    lone = _lone(served, mix)
    rate = first_rate or 0.5 / statistics.fmean(lone.values())
    rates: list[dict[str, Any]] = []
    while len(rates) < most:
        rates.append(_at_rate(served, mix, rate, seconds, lone, seed=len(rates)))
        if rates[-1]["attained"] < COLLAPSED:
            break
        rate *= GROWTH
    sustained = [one["arrivals_per_second"] for one in rates if one["attained"] >= 0.95]
    return {
        "requests": mix.name,
        "lone_seconds": {kind: round(value, 4) for kind, value in sorted(lone.items())},
        "limit": f"{LIMIT:g} times a lone request of the same kind",
        "rates": rates,
        "best_goodput_per_second": max(one["goodput_per_second"] for one in rates),
        "sustained_per_second": max(sustained, default=0.0),
    }


def _lone(served: Served, mix: Mix) -> dict[str, float]:
    """Median seconds of a request of each kind, with nothing else in the service."""
    taken: dict[str, list[float]] = {}
    with contextlib.closing(served.connection()) as connection:
        for request in mix.one_of_each(rounds=LONE_ROUNDS):
            began = time.perf_counter()
            _fetch(connection, request)
            taken.setdefault(request.kind, []).append(time.perf_counter() - began)
    return {kind: statistics.median(values) for kind, values in taken.items()}


def _at_rate(
    served: Served, mix: Mix, rate: float, seconds: float, lone: dict[str, float], seed: int
) -> dict[str, Any]:
    samples, threads, cpu_before = Samples(), [], time.process_time()
    began = time.perf_counter()
    for moment, request in mix.arrivals(seed, rate, seconds):
        time.sleep(max(0.0, began + moment - time.perf_counter()))
        threads.append(threading.Thread(target=_one, args=(served, request, began + moment, samples)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    good = [one for one in samples.answered if one.seconds <= LIMIT * lone[one.kind]]
    return {
        "arrivals_per_second": round(rate, 3),
        "requests": len(threads),
        "failed": len(samples.failed),
        "attained": round(len(good) / max(1, len(threads)), 3),
        "goodput_per_second": round(len(good) / took, 3),
        "answered_per_second": round(len(samples.answered) / took, 3),
        "queue_seconds": percentiles([one.queue for one in samples.answered]),
        "first_tokens_seconds": percentiles([one.first_tokens for one in samples.answered]),
        "end_to_end_seconds": percentiles([one.seconds for one in samples.answered]),
        "client_late_seconds": percentiles([one.late for one in samples.answered]),
        "client_cpu_ms_per_request": round(1000 * (time.process_time() - cpu_before) / max(1, len(threads)), 2),
    }


def _one(served: Served, request: Drawn, planned: float, samples: Samples) -> None:
    try:
        with contextlib.closing(served.connection()) as connection:
            late = time.perf_counter() - planned
            timings = _fetch(connection, request)
            seconds = time.perf_counter() - planned
    except Exception as error:
        samples.failed.append(f"{type(error).__name__}: {error}")
    else:
        queue, first = timings["queue_seconds"], timings["first_tokens_seconds"]
        samples.answered.append(Sample(request.kind, seconds, late, queue, first))


def _fetch(connection: Connection, request: Drawn) -> dict[str, float]:
    """Waits for the job, fetches its pictures, and returns the service's own timings."""
    job = connection.job(request, WAIT)
    while job["status"] in ("queued", "running"):
        time.sleep(0.2)
        job = json.loads(connection.get(job["urls"]["self"]))
    if job["status"] != "succeeded":
        raise RuntimeError(f"job {job['id']} {job['status']}: {job['error']}")
    for image in job["images"]:
        connection.get(image["url"])
    timings: dict[str, float] = job["timings"]
    return timings
