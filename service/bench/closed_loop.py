"""Closed loop: N clients, each sends its next request when it has its picture."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from service.bench import cpu
from service.bench.alone import EngineAlone
from service.bench.figures import percentiles, spread
from service.bench.mix import Drawn, Mix
from service.bench.process import Served

PROBE_PAUSE = 0.05
PARTS = (*cpu.COMPUTING, "rest", "valkey")


def compare(served: Served, alone: EngineAlone, mix: Mix, *, clients: int, pictures: int, pairs: int) -> dict[str, Any]:
    """images/s over HTTP and of the engine alone, in turn, with the same requests."""
    over_http, engine, ratios, used, client_seconds = [], [], [], dict.fromkeys(PARTS, 0.0), 0.0
    for pair in range(pairs + 1):
        requests = list(islice(mix.draw(pair), pictures))
        bodies = [request.body for request in requests]
        before, client_before = _cpu(served), time.process_time()
        http_seconds = run(served, requests, clients)
        after, client_after = _cpu(served), time.process_time()
        alone_seconds = alone.seconds(bodies, clients)
        if pair == 0:
            continue  # caches and teams of threads warm up
        over_http.append(pictures / http_seconds)
        engine.append(pictures / alone_seconds)
        ratios.append(alone_seconds / http_seconds)
        for part in PARTS:
            used[part] += after[part] - before[part]
        client_seconds += client_after - client_before
    drawn = pictures * pairs
    return {
        "clients": clients,
        "pictures": drawn,
        "requests": mix.name,
        "http_images_per_second": spread(over_http),
        "engine_images_per_second": spread(engine),
        "ratio": spread(ratios),
        "cpu_ms_per_image": {part: round(1000 * seconds / drawn, 2) for part, seconds in used.items()},
        "cpu_ms_per_image_beside_engine_and_codec": round(1000 * (used["rest"] + used["valkey"]) / drawn, 2),
        "client_cpu_ms_per_image": round(1000 * client_seconds / drawn, 2),
    }


def probe(served: Served, mix: Mix, *, clients: int, pictures: int) -> dict[str, Any]:
    """Latency of GET /healthz and GET /v1/jobs/{id} while the clients keep the service busy."""
    connection = served.connection()
    requests = list(islice(mix.draw(1000), pictures))
    job = connection.job(requests[0], wait=60)["id"]
    taken: dict[str, list[float]] = {"healthz": [], "job": []}
    over = threading.Event()

    def look() -> None:
        while not over.wait(PROBE_PAUSE):
            for what, path in (("healthz", "/healthz"), ("job", f"/v1/jobs/{job}")):
                began = time.perf_counter()
                connection.get(path)
                taken[what].append(1000 * (time.perf_counter() - began))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        run(served, requests, clients)
    finally:
        over.set()
        thread.join()
        connection.close()
    return {"clients": clients, **{f"{what}_ms": percentiles(values) for what, values in taken.items()}}


def run(served: Served, requests: list[Drawn], clients: int) -> float:
    """Seconds until every request has its picture."""
    source, lock, failures = iter(requests), threading.Lock(), list[BaseException]()

    def following() -> Iterator[Drawn]:
        while True:
            with lock:
                request = next(source, None)
            if request is None:
                return
            yield request

    def client() -> None:
        try:
            with contextlib.closing(served.connection()) as connection:
                for request in following():
                    connection.picture(request)
        except BaseException as error:
            failures.append(error)

    return _together([client] * clients, failures)


def _together(calls: list[Callable[[], None]], failures: list[BaseException]) -> float:
    threads = [threading.Thread(target=call) for call in calls]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - began


def _cpu(served: Served) -> dict[str, float]:
    return defaultdict(float) if served.pid is None else cpu.seconds_by_part(served.pid)
