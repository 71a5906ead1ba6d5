"""Many readers of one job: `python -m tests.load.readers` prints the latency of `/healthz` meanwhile.

All readers follow the event stream of the same job, and the hand-driven worker publishes as often as a real one does.
connecting: from the first connection until each reader has an event. following: after that. Exits with 1 if p95 while
following is above the promised 50 ms, or if a reader misses the end.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import selectors
import socket
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

import httpx

from service.jobs import Publication, Queue, QueueConfig, connect
from service.jobs.messages import AttemptKey, encode_event
from service.worker.events import TokensEvent
from service.worker.threads.report_box import PACE_SECONDS
from tests.load.relay import STEPS, job, output, replica
from tests.load.service import cpu_of

PROMISED_SECONDS = 0.05
PROBE_PAUSE = 0.02
FIRST, LAST = b"event: queued", b"event: failed"


def follow(port: int, job_id: str, readers: int, said: Connection) -> None:
    """Opens the streams and reads them to their end. Sends the number of readers that have begun, then of those that
    were told the end."""
    selector, begun, ended = selectors.DefaultSelector(), set[socket.socket](), set[socket.socket]()
    for _ in range(readers):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        selector.register(connection, selectors.EVENT_READ)
    while selector.get_map():
        for key, _ in selector.select():
            connection = key.fileobj  # type: ignore[assignment]
            part = connection.recv(2**16)
            if FIRST in part:
                begun.add(connection)
                if len(begun) == readers:
                    said.send(len(begun))
            if LAST in part:
                ended.add(connection)
            if not part or part.endswith(b"0\r\n\r\n"):
                selector.unregister(connection)
    said.send(len(ended))


class Probe(threading.Thread):
    """Asks for /healthz again and again. seconds: how long each answer took."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.seconds: list[float] = []
        self._url = f"http://127.0.0.1:{port}/healthz"
        self._over = threading.Event()

    def run(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._over.wait(PROBE_PAUSE):
                began = time.perf_counter()
                assert client.get(self._url).status_code == 200
                self.seconds.append(time.perf_counter() - began)

    def taken(self) -> list[float]:
        self._over.set()
        self.join()
        return self.seconds


def probed(port: int) -> Probe:
    probe = Probe(port)
    probe.start()
    return probe


async def publish(queue: Queue, key: AttemptKey, pictures: int, seconds: float) -> int:
    """As a worker does that draws so many pictures of the job. Returns the number of events."""
    sequence, over = 0, time.monotonic() + seconds
    while time.monotonic() < over:
        began = time.monotonic()
        publications = []
        for picture in range(pictures):
            sequence += 1
            data = encode_event(TokensEvent.of(picture, output(sequence), steps=STEPS).data())
            publications.append(
                Publication(job_id=key[0], attempt=key[1], sequence=sequence, event="tokens", data=data)
            )
        await queue.publish(publications)
        await asyncio.sleep(max(0.0, PACE_SECONDS - (time.monotonic() - began)))
    await queue.finish(*key, sequence + 1, state="failed", event="failed", data={"error": {"code": "x"}})
    return sequence


async def measure(url: str, port: int, pid: int, options: argparse.Namespace) -> bool:
    redis = connect(url)
    queue = Queue(redis, QueueConfig())
    key = await job(queue)
    heard, said = multiprocessing.Pipe(duplex=False)
    reading = multiprocessing.get_context("fork").Process(
        target=follow, args=(port, key[0], options.readers, said), daemon=True
    )
    probe, before = probed(port), cpu_of(pid)
    reading.start()
    await asyncio.to_thread(heard.recv)
    show("connecting", await asyncio.to_thread(probe.taken))
    print(f"connecting: {(cpu_of(pid) - before) / options.readers * 1e3:.2f} ms of CPU a reader")
    probe, before = probed(port), cpu_of(pid)
    events = await publish(queue, key, options.pictures, options.seconds)
    p95 = show("following", await asyncio.to_thread(probe.taken))
    ended = await asyncio.to_thread(heard.recv)
    spent = cpu_of(pid) - before
    reading.join()
    await redis.aclose()
    print(
        f"following: {spent / options.seconds:.0%} of a core, {spent / events / options.readers * 1e6:.1f} µs an event"
    )
    print(f"{ended} of {options.readers} readers were told the end")
    return p95 <= PROMISED_SECONDS and ended == options.readers


def show(what: str, seconds: Sequence[float]) -> float:
    """Returns p95."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    figures = ", ".join(f"p{p} {1e3 * cuts[p - 1]:.0f} ms" for p in (50, 95, 99))
    print(f"{what}: /healthz {figures}, longest {1e3 * max(seconds):.0f} ms")
    return cuts[94]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load.readers", description=__doc__)
    parser.add_argument("--readers", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=1, help="of the job; each has an event in every publication")
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    with replica() as (url, port, pid):
        return 0 if asyncio.run(measure(url, port, pid, options)) else 1


if __name__ == "__main__":
    sys.exit(main())
