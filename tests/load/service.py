"""The service under load: starts `arpg serve` with keys, and measures its processes from outside."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from service.server.embedded import running_in

READY_SECONDS = 120.0
RESULT_TTL = 120
"""Seconds. Short, so that the store of finished jobs stops growing before the measurement begins."""

PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")

ENVIRONMENT = {
    "PORT": "0",
    "ARPG_RESULT_TTL": str(RESULT_TTL),
    # A POST that accepts only a picture waits as long as the queue is; a timeout would count as an error.
    "ARPG_PICTURE_WAIT": "600",
}


@dataclass(frozen=True, slots=True)
class Service:
    """A running service. keys: client → key; empty if the service has no keys."""

    process: subprocess.Popen[str]
    url: str
    data: Path
    keys: Mapping[str, str]

    @property
    def redis_url(self) -> str:
        address = running_in(self.data / "valkey")
        assert address is not None, "the embedded server does not answer"
        return address

    def processes(self) -> dict[str, int]:
        """Returns name → pid of each of its processes."""
        found = {"arpg": self.process.pid}
        for pid in descendants(self.process.pid):
            name = "valkey" if b"valkey" in command_of(pid) or b"redis" in command_of(pid) else f"child {pid}"
            found[name] = pid
        return found

    def stop(self) -> int:
        """Sends SIGTERM. Returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)


@contextmanager
def serving(
    data: Path, weights: Mapping[str, float], environment: Mapping[str, str] = ENVIRONMENT
) -> Iterator[Service]:
    """Runs `arpg serve` in its own folder, with a key for each client and one that may read the metrics; with none if
    there are no weights."""
    keys = {name: key for name, weight in weights.items() if (key := _key(data, name, "--weight", f"{weight:g}"))}
    if keys:
        keys["monitor"] = _key(data, "monitor", "--scope", "metrics", "--scope", "draw")
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve", "--data-dir", str(data)],
        env={**os.environ, **environment},
        stderr=(data / "arpg.log").open("w"),
        text=True,
        preexec_fn=die_with_parent,
    )
    try:
        yield Service(process, _url(process, data / "arpg.log"), data, keys)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def _key(data: Path, name: str, *options: str) -> str:
    """Returns a new key; empty if this service has no keys."""
    command = [sys.executable, "-m", "service.cli", "keys", "add", name, "--data-dir", str(data), *options]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if made.returncode and "invalid choice" in made.stderr:
        return ""
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def _url(process: subprocess.Popen[str], log: Path) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        said = log.read_text()
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        if found and _ready(found[0]):
            return found[0]
        assert process.poll() is None, f"the service ended: {said}"
        assert time.monotonic() < deadline, f"the service was not ready in time: {said}"
        time.sleep(0.2)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def die_with_parent() -> None:
    """Runs in a child before exec: the kernel then ends the child when this process dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return b""


def rss_of(pid: int) -> int:
    """Resident memory, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def stolen() -> float:
    """Seconds so far that the host gave to other machines, summed over all cores."""
    try:
        return int(Path("/proc/stat").read_text().split()[8]) / TICK
    except OSError:
        return 0.0


def cpu_of(pid: int) -> float:
    """CPU seconds so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK
