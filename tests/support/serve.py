"""Processes of the `arpg` command, as its user starts them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx

from tests.support.processes import die_with_parent
from tests.support.waiting import PATIENCE


class Server:
    """A process of `arpg serve`."""

    def __init__(self, process: subprocess.Popen[str], url: str, data: Path) -> None:
        self.process = process
        self.data = data
        self.client = httpx.Client(base_url=url, timeout=PATIENCE)

    def valkeys(self) -> list[int]:
        """Processes that run over the data folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.data).encode() in command and b"valkey" in command:
                    found.append(int(entry.name))
        return found

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def read_url(stderr: IO[str]) -> str:
    said = ""
    for line in stderr:
        said += line
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise AssertionError(f"it never said where it listens: {said}")


@contextmanager
def started(
    arguments: list[str], code: Path | None = None, /, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A process of the command, and its standard error. code: a folder with another `service`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=code,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    assert process.stderr is not None
    try:
        yield process, process.stderr
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


@contextmanager
def arpg(
    arguments: list[str], code: Path | None = None, /, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of the command, and the address that it tells; `arpg serve` tells it when it is ready."""
    with started(arguments, code, **environment) as (process, stderr):
        yield process, read_url(stderr)


@contextmanager
def serving(data: Path, *models: Path) -> Iterator[Server]:
    """`arpg serve` with these models, once it is ready."""
    with arpg(serve_command(data, *models), PORT="0") as (process, url):
        server = Server(process, url, data)
        assert server.client.get("/readyz").status_code == 200, "it tells its address before it is ready"
        yield server
        server.client.close()


def serve_command(data: Path, *models: Path) -> list[str]:
    return ["serve", "--data-dir", str(data), *(part for model in models for part in ("--model", str(model)))]
