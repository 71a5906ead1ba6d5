"""`python -m tests.deploy`: Prometheus scrapes `arpg serve` under load, and each panel of the dashboard is drawn.

Grafana itself is not run: the panels' own expressions go to Prometheus' HTTP API, as Grafana sends them. At half-time
the worker is killed once, so that the panels of the failures show something.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

import httpx

from tests.deploy import sheets
from tests.deploy.dashboard import Panel, filled, panels
from tests.deploy.prometheus import Prometheus, scraping
from tests.deploy.sheets import Drawn
from tests.load import tasks
from tests.load.customers import Customer
from tests.load.record import Record
from tests.load.service import Service, descendants, serving
from tests.load.web import PATIENCE, Web
from tests.support.processes import REPOSITORY

POINTS = 240
"""That a line has at most."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 if every expression has an answer."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="arpg-dashboards-") as name:
        folder = Path(name)
        with serving(folder, {}) as service:
            target = service.url.removeprefix("http://")
            with scraping(folder, target, options.scrape) as prometheus:
                begin, record = asyncio.run(_load(service, options))
                time.sleep(options.scrape + 1)  # the last events are in a scrape
                end = time.time()
                drawn = _ask(prometheus, begin, end, options)
                facts = _facts(prometheus, record, options)
    options.out.mkdir(parents=True, exist_ok=True)
    for row, group in groupby(drawn, key=lambda one: one.panel.row):
        sheets.draw([*group], (begin, end), options.out / sheets.file_name(row))
    empty = [one.panel.title for one in drawn if not one.lines]
    (options.out / "README.md").write_text(_text(facts, empty))
    print(f"{len(drawn)} panels are in {options.out}; without data: {', '.join(empty) or 'none'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("dashboards", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="duration of the load")
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--scrape", type=float, default=5.0, help="seconds between two scrapes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs/dashboards")
    return parser


async def _load(service: Service, options: argparse.Namespace) -> tuple[float, Record]:
    """Returns when the load began, and what happened to its jobs."""
    record, random, stop = Record(), Random(options.seed), asyncio.Event()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE, limits=limits) as http:

        def web(index: int) -> Web:
            return Web(http, "local", f"customer {index}", "", record, Random(random.getrandbits(64)))

        drawn = []
        for label in range(0, tasks.CLASSES, 4):
            asked: dict[str, Any] = {"class": label, "seed": label}
            answer = await web(0).send("picture", "POST", "/v1/generate", json=asked, headers={"Accept": "image/png"})
            drawn.append(answer.content)
        pictures = tasks.Pictures(tuple(drawn), tasks.masks())
        print(f"{options.clients} clients, {options.minutes:g} min", flush=True)
        begin = time.time()
        customers = [Customer(web(index), pictures, think=3.0) for index in range(options.clients)]
        running = [asyncio.ensure_future(customer.run(stop)) for customer in customers]
        await asyncio.sleep(30 * options.minutes)
        _kill_worker(service)
        await asyncio.sleep(30 * options.minutes)
        stop.set()
        await asyncio.gather(*running)
    return begin, record


def _kill_worker(service: Service) -> None:
    for pid in descendants(service.process.pid):
        with contextlib.suppress(OSError):
            if b"service.server.worker_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def _ask(prometheus: Prometheus, begin: float, end: float, options: argparse.Namespace) -> list[Drawn]:
    step = max(options.scrape, (end - begin) / POINTS)
    interval = f"{max(30.0, 4 * options.scrape):g}s"  # as Grafana's $__rate_interval, which is 4 scrapes

    def answered(panel: Panel) -> Drawn:
        lines = [
            (sheets.legend(pattern, line.labels), line)
            for expression, pattern in panel.queries
            for line in prometheus.range(filled(expression, interval=interval), begin, end, step)
        ]
        return Drawn(panel, lines)

    return [answered(panel) for panel in panels()]


def _facts(prometheus: Prometheus, record: Record, options: argparse.Namespace) -> dict[str, str]:
    over = f"[{options.minutes + 5:g}m]"
    [(_, scrapes)] = prometheus.now(f"count_over_time(up{over})")
    [(_, up)] = prometheus.now(f"sum_over_time(up{over})")
    [(_, seconds)] = prometheus.now(f"quantile_over_time(0.99, scrape_duration_seconds{over})")
    [(_, samples)] = prometheus.now("scrape_samples_scraped")
    firing = prometheus.now(f'sum by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}{over}))')
    return {
        "load": f"{options.clients} clients, {options.minutes:g} min, {len(record.jobs)} jobs",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "scrapes": f"{scrapes:.0f}, one every {options.scrape:g} s; {scrapes - up:.0f} failed",
        "duration of a scrape": f"{1000 * seconds:.0f} ms (99 % within)",
        "series of a scrape": f"{samples:.0f}",
        "alerts that fired": ", ".join(sorted(labels["alertname"] for labels, _ in firing)) or "none",
    }


def _text(facts: dict[str, str], empty: Sequence[str]) -> str:
    rows = list(dict.fromkeys(panel.row for panel in panels()))
    return "\n".join(
        [
            "# The dashboard",
            "",
            "`docker compose --profile observability up` starts Prometheus and Grafana with this dashboard, from",
            "[`deploy/grafana`](../../deploy/grafana/dashboards/arpg.json), and the rules and alerts of",
            "[`deploy/prometheus`](../../deploy/prometheus). [Runbooks](../runbooks.md) tell what to do then.",
            "",
            "The pictures are not Grafana's, which could not be installed where they were made. `make dashboards` runs",
            "a real Prometheus that scrapes `arpg serve` under load. It sends each panel's expressions to Prometheus'",
            "HTTP API, as Grafana does, and draws the answers. At half-time it kills the worker: the service starts",
            "another one, which takes over the jobs. The x axes show minutes.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in facts.items()),
            "",
            *(
                ["Panels without data, because nothing of the kind happened: " + ", ".join(empty) + ".", ""]
                * bool(empty)
            ),
            *(line for row in rows for line in (f"## {row}", "", f"![{row}]({sheets.file_name(row)})", "")),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
