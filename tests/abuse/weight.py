"""The memory of a service's processes, without its Valkey; and the processor time of its API."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.load.service import Service, cpu_of, descendants, rss_of

SAMPLE_SECONDS = 0.1

Sizes = Counter[str]
"""RSS in bytes of API, worker and decode processes."""

_NAMES = {b"valkey": "", b"redis-server": "", b"worker_main": "worker", b"pictures.processes": "decode"}
"""By a part of the command line; empty: not counted."""


@dataclass(frozen=True, slots=True)
class Memory:
    """At the start of the attack, when most was used, and some time after its end."""

    start: Sizes
    peak: Sizes
    after: Sizes


class Weight:
    """start: when it was made; peak: the most since then."""

    def __init__(self, service: Service) -> None:
        self._pid = service.process.pid
        self.start = self.peak = self.now()

    async def watch(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.peak = max(self.peak, await asyncio.to_thread(self.now), key=Counter.total)
            await asyncio.sleep(SAMPLE_SECONDS)

    def processor(self) -> float:
        """Seconds of processor time that the API has used so far: a busy machine does not change it much."""
        return cpu_of(self._pid)

    def now(self) -> Sizes:
        sizes: Sizes = Counter()
        for pid in (self._pid, *descendants(self._pid)):
            try:
                if name := "api" if pid == self._pid else _name(pid):
                    sizes[name] += rss_of(pid)
            except OSError:  # it has ended
                continue
        return sizes


def _name(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return next((name for part, name in _NAMES.items() if part in command), "other")
