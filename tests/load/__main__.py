"""`python -m tests.load`: starts the service, measures its capacity, loads it, and writes the report."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import httpx

from tests.load import report, tasks
from tests.load.customers import Customer
from tests.load.record import Record
from tests.load.service import RESULT_TTL, Service, serving
from tests.load.verdict import Leftovers, Phase, Verdict, judge
from tests.load.watch import Watch
from tests.load.web import PATIENCE, Web

WEIGHTS = {"ann": 1.0, "ben": 1.0, "cleo": 1.0, "dora": 2.0, "emil": 2.0, "fay": 4.0}
"""The keys with their weights. Customers are spread evenly over the keys."""

SETTLING = 300.0  # s at the start of each phase that are not judged; at most a quarter of the phase
WARMING = 200
"""Customers of the warm-up, who never pause and who upload photographs. Allocators keep the most memory that was ever
needed, and the warm-up needs more than the load does. So growth after it is a leak, not a new peak. Smaller leaks must
show in what the store holds at the end (`Leftovers`)."""
SATURATING = (64, 200)
"""Customers who never pause, while the capacity is measured: few, then as many as the load has."""
THINK = 3.0  # s, mean pause between two requests of a customer


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 if every promise was kept."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="arpg-load-") as folder:
        verdict = _Run(options, Path(folder)).run()
    for promise in verdict.promises:
        print({True: "kept  ", False: "BROKEN", None: "?     "}[promise.kept], promise.name, "—", promise.measured)
    print(f"the report is in {options.out}")
    return 0 if verdict.kept else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("load", description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=20.0, help="duration of the load")
    parser.add_argument(
        "--capacity-minutes", type=float, default=5.0, help="duration of the warm-up and of each of two capacity phases"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("deploy/load-report"))
    return parser


class _Run:
    """One run, from start to verdict."""

    def __init__(self, options: argparse.Namespace, data: Path) -> None:
        self._options = options
        self._data = data
        self._record = Record()
        self._random = Random(options.seed)

    def run(self) -> Verdict:
        with serving(self._data, WEIGHTS) as service:
            capacities, load, left_over = asyncio.run(self._drive(service))
            weights = WEIGHTS if service.keys else {}
            verdict = judge(self._record, capacities, load, weights, left_over, service.stop())
        about = {
            "clients": self._options.clients,
            "keys": len(weights),
            "minutes": self._options.minutes,
            "capacity_minutes": self._options.capacity_minutes,
            "seed": self._options.seed,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            **report.describe(load, capacities),
        }
        report.write(self._options.out, about, self._record, load, verdict)
        return verdict

    async def _drive(self, service: Service) -> tuple[list[Phase], Phase, Leftovers]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE, limits=limits) as http:
            watch, stop = Watch(service, self._record, http), asyncio.Event()
            try:
                pictures = await self._pictures(service, http)
                held = await watch.held()
                watching = asyncio.ensure_future(watch.run(stop))
                minutes = self._options.capacity_minutes
                await self._phase(
                    "warm-up", service, http, tasks.photos(pictures, self._random), WARMING, minutes, think=0.0
                )
                capacities = [
                    await self._phase(f"capacity with {crowd}", service, http, pictures, crowd, minutes, think=0.0)
                    for crowd in SATURATING
                ]
                clients, minutes = self._options.clients, self._options.minutes
                load = await self._phase("load", service, http, pictures, clients, minutes, think=THINK)
                stop.set()
                await watching
                left_over = await watch.left_over(patience=30)
                await watch.settle()
                print("load: waiting until its jobs have expired", flush=True)
                kept = await watch.left_for_good(patience=RESULT_TTL + 30)
                await self._pictures(
                    service, http
                )  # the same pictures as at the start, so that both counts include them
                return capacities, load, Leftovers(left_over, kept, await watch.held() - held)
            finally:
                await watch.close()

    async def _phase(
        self,
        name: str,
        service: Service,
        http: httpx.AsyncClient,
        pictures: tasks.Pictures,
        clients: int,
        minutes: float,
        *,
        think: float,
    ) -> Phase:
        """Runs this many customers at once, then waits for their last requests."""
        stop, begin = asyncio.Event(), time.time()
        customers = [Customer(self._web(service, http, i, name), pictures, think=think) for i in range(clients)]
        running = [asyncio.ensure_future(customer.run(stop)) for customer in customers]
        print(f"{name}: {clients} customers for {minutes:g} minutes", flush=True)
        ended, _ = await asyncio.wait(running, timeout=60 * minutes, return_when=asyncio.FIRST_EXCEPTION)
        end = time.time()
        stop.set()
        await asyncio.gather(*running)
        assert not ended, "a customer stopped early"
        failures = sum(self._record.failed.values())
        print(f"{name}: the last job ended {time.time() - end:.0f} s later; failures so far: {failures}")
        return Phase(begin, begin + min(SETTLING, (end - begin) / 4), end)

    def _web(self, service: Service, http: httpx.AsyncClient, index: int, phase: str) -> Web:
        names = list(WEIGHTS)
        client = names[index % len(names)] if service.keys else "local"
        random = Random(self._random.getrandbits(64))
        return Web(http, client, f"{phase} {index}", service.keys.get(client, ""), self._record, random)

    async def _pictures(self, service: Service, http: httpx.AsyncClient) -> tasks.Pictures:
        """Draws the pictures that customers upload later, of several classes."""
        web = self._web(service, http, 0, "pictures")
        drawn = []
        for label in range(0, tasks.CLASSES, 4):
            asked, accept = {"class": label, "seed": label}, {"Accept": "image/png"}
            drawn.append((await web.send("picture", "POST", "/v1/generate", json=asked, headers=accept)).content)
        return tasks.Pictures(tuple(drawn), tasks.masks())


if __name__ == "__main__":
    sys.exit(main())
