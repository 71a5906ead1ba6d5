"""A real Prometheus with the rules of `deploy/`, and what it answers."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.dashboard import PROMETHEUS, RULES
from tests.support.processes import die_with_parent

READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel. times: seconds since the epoch."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


class Prometheus:
    """Its HTTP API, as Grafana uses it."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def range(self, expression: str, start: float, end: float, step: float) -> list[Line]:
        """What a panel shows. Raises an AssertionError with Prometheus' own words for a bad expression."""
        asked = {"query": expression, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        found = []
        for series in self._get("query_range", asked)["result"]:
            times, values = zip(*series["values"], strict=True)
            found.append(Line(series["metric"], [float(at) for at in times], [float(value) for value in values]))
        return found

    def now(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Each series with its value."""
        return [(one["metric"], float(one["value"][1])) for one in self._get("query", {"query": expression})["result"]]

    def _get(self, what: str, asked: dict[str, str]) -> dict[str, Any]:
        answer = self._http.get(f"/api/v1/{what}", params=asked).json()
        assert answer["status"] == "success", answer
        data: dict[str, Any] = answer["data"]
        return data


@contextmanager
def scraping(folder: Path, target: str, every: float) -> Iterator[Prometheus]:
    """Prometheus scrapes `target` (host:port) every so many seconds. It keeps its data in the folder."""
    program = shutil.which("prometheus")
    if program is None:
        raise SystemExit("there is no prometheus: install Debian's package prometheus")
    config = {
        "global": {"scrape_interval": f"{every:g}s", "evaluation_interval": f"{every:g}s"},
        "rule_files": [str(PROMETHEUS / name) for name in RULES],
        "scrape_configs": [{"job_name": "arpg", "static_configs": [{"targets": [target]}]}],
    }
    file = folder / "prometheus.json"  # JSON is YAML
    file.write_text(json.dumps(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = {"config.file": file, "storage.tsdb.path": folder / "data", "web.listen-address": address}
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [program, *(f"--{name}={value}" for name, value in options.items()), "--log.level=warn"],
            stderr=log,
            preexec_fn=die_with_parent,
        )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=30) as http:
            _wait_until_ready(http, process, folder / "prometheus.log")
            yield Prometheus(http)
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if http.get("/-/ready").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert process.poll() is None, f"prometheus ended: {log.read_text()}"
        assert time.monotonic() < deadline, f"prometheus was not ready in time: {log.read_text()}"
        time.sleep(0.2)
