"""The processes of one run: restarts those that end, and applies faults to them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.chaos import children
from tests.chaos.children import Setup
from tests.chaos.server import Server

WORKERS, FRONT_ENDS = 3, 2
LEAVING_SECONDS = 10.0


def preload(*, real_engine: bool) -> None:
    """Sets the modules that the forkserver imports. Call it before the first child starts."""
    more = children.FOR_THE_REAL_ENGINE if real_engine else []
    multiprocessing.get_context("forkserver").set_forkserver_preload([*children.PRELOADED, *more])


class Place:
    """Keeps one process running; each new one gets a new name."""

    def __init__(self, name: str, start: Callable[[str], BaseProcess]) -> None:
        self.name = name
        self.ends: Counter[int | None] = Counter()
        self.frozen = False
        self._start = start
        self._lives = itertools.count(1)
        self.process = self._begin()

    def _begin(self) -> BaseProcess:
        self.life = f"{self.name}.{next(self._lives)}"
        process = self._start(self.life)
        process.start()
        return process

    def send(self, number: signal.Signals) -> None:
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def renew(self) -> None:
        """Starts another process if this one has ended."""
        if not self.process.is_alive():
            self.ends[self.process.exitcode] += 1
            self.process = self._begin()


class Cluster:
    """Three workers and two API replicas on one Valkey behind a proxy."""

    def __init__(self, setup: Setup, server: Server) -> None:
        self.server = server
        self.urls: list[str] = []
        self.workers: list[Place] = []
        self.front_ends: list[Place] = []
        self._setup = setup
        self._context = multiprocessing.get_context("forkserver")
        self._armed = self._context.Value("i", 0)
        self._lost = self._context.Value("i", 0)
        self._background: set[asyncio.Task[None]] = set()

    @property
    def replies_lost(self) -> int:
        return int(self._lost.value)

    def start(self) -> None:
        context, setup = self._context, self._setup
        ours, theirs = context.Pipe()
        self._proxy = context.Process(
            target=children.proxy, args=(setup, str(self.server.socket), self._armed, self._lost, theirs), daemon=True
        )
        self._proxy.start()
        if not ours.poll(30):
            raise RuntimeError("the proxy did not start")
        url = f"redis://127.0.0.1:{ours.recv()}/0"
        ports = free_ports(FRONT_ENDS)
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]

        def worker(name: str) -> BaseProcess:
            return context.Process(target=children.worker, args=(setup, name, url), daemon=True)

        def front_end(port: int) -> Callable[[str], BaseProcess]:
            return lambda name: context.Process(target=children.front_end, args=(setup, name, url, port), daemon=True)

        self.workers = [Place(f"worker-{index}", worker) for index in range(WORKERS)]
        self.front_ends = [Place(f"api-{index}", front_end(port)) for index, port in enumerate(ports)]
        self._spawn(self._watch())

    async def stop(self) -> list[str]:
        """Stops the workers, then the replicas. Returns a complaint for each process that did not exit cleanly."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        complaints = []
        for places in (self.workers, self.front_ends):
            for place in places:
                place.send(signal.SIGCONT)
                await self._begun(place)
                place.send(signal.SIGTERM)
            for place in places:
                await asyncio.to_thread(place.process.join, LEAVING_SECONDS)
                if place.process.is_alive():
                    complaints.append(f"{place.name} did not exit within {LEAVING_SECONDS:g} s of SIGTERM")
                    place.process.kill()
                    place.process.join()
                elif place.process.exitcode != 0:
                    complaints.append(f"{place.name} exited with status {place.process.exitcode}")
        self._proxy.kill()
        self._proxy.join()
        return complaints

    async def _begun(self, place: Place) -> None:
        """Waits until the process has its log, and so its answer to SIGTERM: it may have been forked a moment ago."""
        log = self._setup.logs / f"{place.life}.log"
        deadline = time.monotonic() + LEAVING_SECONDS
        for _ in iter(lambda: place.process.is_alive() and not log.exists() and time.monotonic() < deadline, False):
            await asyncio.sleep(0.01)

    def starved(self) -> float:
        """Seconds that the current processes waited for a free core: how busy the machine is."""
        with contextlib.suppress(OSError):
            stats = [Path(f"/proc/{place.process.pid}/schedstat") for place in (*self.workers, *self.front_ends)]
            return round(sum(int(stat.read_text().split()[1]) for stat in stats) / 1e9, 1)
        return 0.0

    # Faults.

    def kill_worker(self, among: int) -> None:
        self.workers[among % WORKERS].send(signal.SIGKILL)

    def freeze_worker(self, among: int, seconds: float) -> None:
        self._spawn(self._freeze(self.workers[among % WORKERS], seconds))

    def drain_worker(self, among: int) -> None:
        self.workers[among % WORKERS].send(signal.SIGTERM)

    async def kill_server(self, seconds: float) -> None:
        await self.server.kill()
        await asyncio.sleep(seconds)
        await self.server.start()

    async def stall_server(self, seconds: float) -> None:
        await self.server.stall(seconds)

    def kill_api(self, among: int) -> None:
        self.front_ends[among % FRONT_ENDS].send(signal.SIGKILL)

    def lose_replies(self, count: int) -> None:
        with self._armed.get_lock():
            self._armed.value += count

    async def _freeze(self, place: Place, seconds: float) -> None:
        process = place.process
        place.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            if place.process is process:
                place.send(signal.SIGCONT)

    async def _watch(self) -> None:
        while True:
            for place in (*self.workers, *self.front_ends):
                place.renew()
            await asyncio.sleep(0.05)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


@contextlib.asynccontextmanager
async def running(setup: Setup, server: Server) -> AsyncIterator[Cluster]:
    """Starts a cluster, and kills what is left of it on exit."""
    cluster = Cluster(setup, server)
    cluster.start()
    try:
        yield cluster
    finally:
        for place in (*cluster.workers, *cluster.front_ends):
            place.send(signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]
