"""What a token event costs: `python -m tests.load.relay` prints CPU time and bytes for each event.

api: CPU time of `arpg api` for each event and watcher. The watchers are real connections, and the next event is sent
when all of them have the last one, so no events are joined. worker: CPU time from a step's output to the reply of
Redis, one event in each call. redis: bytes that Redis receives for each event.

Valkey keeps nothing on disk here. The figures are medians over the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx

from engine.request import StepOutput
from service.jobs import NewJob, Publication, Queue, QueueConfig, connect
from service.jobs.messages import AttemptKey, encode_event
from service.worker.events import TokensEvent
from service.worker.publisher import Publisher
from tests.load.service import cpu_of
from tests.support.processes import die_with_parent, server_binary

CELLS, STEPS = 256, 32
STARTUP_SECONDS = 60.0


def output(step: int) -> StepOutput:
    chance, per_step = random.Random(step), CELLS // STEPS
    positions = tuple(chance.sample(range(CELLS), per_step))
    tokens = tuple(chance.randrange(16384) for _ in positions)
    done = (step % STEPS + 1) * per_step
    return StepOutput(
        step=step % STEPS + 1, steps=STEPS, positions=positions, tokens=tokens, n_done=done, n_total=CELLS
    )


async def job(queue: Queue) -> AttemptKey:
    name = f"job-{time.monotonic_ns()}"
    await queue.submit(NewJob(id=name, model="m", cost=1, spec=""))
    [claim] = await queue.claim("m", "w", budget=1, limit=1, alone=True)
    return claim.id, claim.attempt


async def api_microseconds(queue: Queue, port: int, pid: int, events: int, watchers: int) -> float:
    job_id, attempt = await job(queue)
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(watchers)]
    for reader, writer in connections:
        writer.write(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await reader.readuntil(b"event: queued")

    async def relay(step: int) -> None:
        data = encode_event(TokensEvent.of(0, output(step), steps=STEPS).data())
        await queue.publish([Publication(job_id=job_id, attempt=attempt, sequence=step + 1, event="tokens", data=data)])
        await asyncio.gather(*(reader.readuntil(b"event: tokens") for reader, _ in connections))

    for step in range(50):  # until all connections are attached and the interpreter is warm
        await relay(step)
    before = cpu_of(pid)
    for step in range(50, 50 + events):
        await relay(step)
    spent = cpu_of(pid) - before
    for _, writer in connections:
        writer.close()
    return spent / events / watchers * 1e6


async def worker_figures(queue: Queue, events: int) -> tuple[float, float]:
    """Microseconds and bytes for each event."""
    key = await job(queue)
    publisher = Publisher(queue, lambda *_: None, lambda: True)
    publisher.register(key)
    publishing = asyncio.create_task(publisher.run())

    async def publish(step: int) -> None:
        publisher.tokens(key, TokensEvent.of(0, output(step), steps=STEPS))
        await publisher.last_sequence(key)

    for step in range(50):
        await publish(step)
    drawn = time.process_time()
    for step in range(events):
        output(step)
    drawn = time.process_time() - drawn  # not the worker's: only this benchmark makes outputs so
    received, began = await bytes_received(queue), time.process_time()
    for step in range(events):
        await publish(step)
    spent = time.process_time() - began - drawn
    received = await bytes_received(queue) - received
    publishing.cancel()
    return spent / events * 1e6, received / events


async def bytes_received(queue: Queue) -> int:
    return int((await queue.redis.info("stats"))["total_net_input_bytes"])


@contextlib.contextmanager
def child(*command: str, **environment: str) -> Iterator[int]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | environment,
        preexec_fn=die_with_parent,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def replica() -> Iterator[tuple[str, int, int]]:
    """Redis's URL, and port and pid of an `arpg api` beside it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path, port = Path(folder) / "s", free_port()
        url = f"unix://{path}"
        stack.enter_context(
            child(server_binary(), "--port", "0", "--unixsocket", str(path), "--dir", folder, "--save", "")
        )
        wait_until(path.exists)
        command = [sys.executable, "-m", "service.cli", "api", "--port", str(port), "--redis-url", url]
        pid = stack.enter_context(child(*command, ARPG_ALLOW_UNSAFE_REDIS="1", ARPG_DATA_DIR=folder))
        wait_until(lambda: is_up(port))
        yield url, port, pid


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "a server did not start"
        time.sleep(0.05)


async def measure(url: str, port: int, pid: int, events: int, watchers: int) -> tuple[float, float, float]:
    redis = connect(url)
    queue = Queue(redis, QueueConfig())
    try:
        api = await api_microseconds(queue, port, pid, events, watchers)
        return api, *await worker_figures(queue, events)
    finally:
        await redis.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.load.relay", description=__doc__)
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--watchers", type=int, default=20)
    parser.add_argument("--runs", type=int, default=4)
    arguments = parser.parse_args()
    runs = []
    for _ in range(arguments.runs):
        with replica() as (url, port, pid):
            runs.append(asyncio.run(measure(url, port, pid, arguments.events, arguments.watchers)))
        show("run", runs[-1])
    show("median", [statistics.median(figures) for figures in zip(*runs, strict=True)])


def show(what: str, figures: Sequence[float]) -> None:
    api, worker, received = figures
    print(
        f"{what}: api {api:.1f} µs an event and watcher, worker {worker:.0f} µs and redis {received:.0f} bytes an event"
    )


if __name__ == "__main__":
    main()
