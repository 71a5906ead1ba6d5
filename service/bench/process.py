"""The service under measurement: an `arpg serve` of our own in a temporary folder, or one that runs already."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from service.bench.web import Connection, Failed

START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Served:
    """pid: None where the service runs elsewhere, so that its processor time is not known."""

    url: str
    key: str | None
    pid: int | None

    def connection(self) -> Connection:
        return Connection(self.url, self.key)

    def classes(self, model: str) -> int:
        connection = self.connection()
        with contextlib.closing(connection):
            total: int = json.loads(connection.get(f"/v1/models/{model}/classes"))["total"]
        return total


@contextlib.contextmanager
def own_service(model: str) -> Iterator[Served]:
    """Starts `arpg serve`, and waits until it is ready."""
    with tempfile.TemporaryDirectory(prefix="arpg-bench-") as folder:
        command = [sys.executable, "-m", "service.cli", "serve", "--model", model, "--data-dir", folder, "--port", "0"]
        environment = {**os.environ, "ARPG_LOG_LEVEL": "warning"}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            served = Served(_address(process), None, process.pid)
            _wait_until_ready(served, process)
            yield served
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://[0-9.]+:\d+", line):
            threading.Thread(target=_pass_on, args=(process,), daemon=True).start()
            return found[0]
        sys.stderr.write(line)
    raise RuntimeError("arpg serve ended before it listened")


def _pass_on(process: subprocess.Popen[str]) -> None:
    """Reads on, so that the service's log never blocks it."""
    assert process.stderr is not None
    for line in process.stderr:
        if " WARNING " in line or " ERROR " in line:
            sys.stderr.write(line)


def _wait_until_ready(served: Served, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    connection = served.connection()
    with contextlib.closing(connection):
        while True:
            try:
                connection.get("/readyz")
                return
            except Failed:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
