"""The service under load: `arpg serve` as its user starts it, with keys, and what can be seen of it from outside."""

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
"""Seconds: short, so that what is kept of finished jobs stops growing before the measuring begins."""

PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")

ENVIRONMENT = {
    "PORT": "0",
    "ARPG_RESULT_TTL": str(RESULT_TTL),
    # Whoever waits for a picture itself waits as long as the queue is: that is no error.
    "ARPG_PICTURE_WAIT": "600",
}


@dataclass(frozen=True, slots=True)
class Service:
    """A running one. keys: the secret of each client's, empty where the service has no keys yet."""

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
        """The pid of each of its processes."""
        found = {"arpg": self.process.pid}
        for pid in descendants(self.process.pid):
            name = "valkey" if b"valkey" in command_of(pid) or b"redis" in command_of(pid) else f"child {pid}"
            found[name] = pid
        return found

    def stop(self) -> int:
        """The exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)


@contextmanager
def serving(data: Path, weights: Mapping[str, float]) -> Iterator[Service]:
    """`arpg serve` in a folder of its own, with a key for each of these clients, and one that may read the metrics."""
    keys = {name: key for name, weight in weights.items() if (key := _key(data, name, "--weight", f"{weight:g}"))}
    if keys:
        keys["monitor"] = _key(data, "monitor", "--scope", "metrics", "--scope", "draw")
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve", "--data-dir", str(data)],
        env={**os.environ, **ENVIRONMENT},
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
    """A new one; empty where this service knows no keys."""
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
        assert process.poll() is None, f"it ended: {said}"
        assert time.monotonic() < deadline, f"not ready in time: {said}"
        time.sleep(0.2)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def die_with_parent() -> None:
    """In a child, before exec: the kernel ends it when this process dies, however it dies."""
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
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def stolen() -> float:
    """Seconds so far that the machine's host gave to others, of all cores together."""
    try:
        return int(Path("/proc/stat").read_text().split()[8]) / TICK
    except OSError:
        return 0.0


def cpu_of(pid: int) -> float:
    """Seconds so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK
