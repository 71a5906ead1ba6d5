"""Which fault happens when: derived from the seed, so that a run can be repeated."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

KILL, FREEZE, DRAIN = "worker killed", "worker frozen", "worker drained"
SERVER_KILL, SERVER_STALL = "server killed", "server stalled"
API_KILL, LOST_REPLIES = "front end killed", "replies lost"

EVERYTHING = {
    KILL: 0.6,
    FREEZE: 0.35,
    DRAIN: 0.1,
    SERVER_KILL: 0.12,
    SERVER_STALL: 0.08,
    API_KILL: 0.2,
    LOST_REPLIES: 1.5,
}
"""Faults per second."""


@dataclass(frozen=True, slots=True)
class Fault:
    """seconds: duration, 0 for faults without one. among: a number that selects the process."""

    at: float
    kind: str
    among: int
    seconds: float


class Victims(Protocol):
    def kill_worker(self, among: int) -> None: ...
    def freeze_worker(self, among: int, seconds: float) -> None: ...
    def drain_worker(self, among: int) -> None: ...
    async def kill_server(self, seconds: float) -> None: ...
    async def stall_server(self, seconds: float) -> None: ...
    def kill_api(self, among: int) -> None: ...
    def lose_replies(self, count: int) -> None: ...


def schedule(seed: int, seconds: float, rates: Mapping[str, float], *, lease: float) -> list[Fault]:
    """Returns faults in order of time, at least one of each kind in rates."""
    chance = random.Random(f"faults {seed}")
    lasting = {FREEZE: (0.9 * lease, 1.6 * lease), SERVER_KILL: (0.05, 0.6), SERVER_STALL: (0.2, 1.2 * lease)}
    faults = []
    for kind, rate in rates.items():
        for _ in range(max(1, round(rate * seconds))):
            among, lasts = chance.randrange(2**16), chance.uniform(*lasting.get(kind, (0, 0)))
            faults.append(Fault(round(chance.uniform(0.5, seconds), 3), kind, among, round(lasts, 3)))
    return sorted(faults, key=lambda fault: fault.at)


async def inflict(faults: Sequence[Fault], victims: Victims) -> Counter[str]:
    """Applies the faults on schedule. Returns how often each kind happened."""
    began, done = time.monotonic(), Counter[str]()
    for fault in faults:
        await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
        done[fault.kind] += 1
        match fault.kind:
            case "worker killed":
                victims.kill_worker(fault.among)
            case "worker frozen":
                victims.freeze_worker(fault.among, fault.seconds)
            case "worker drained":
                victims.drain_worker(fault.among)
            case "server killed":
                await victims.kill_server(fault.seconds)
            case "server stalled":
                await victims.stall_server(fault.seconds)
            case "front end killed":
                victims.kill_api(fault.among)
            case "replies lost":
                victims.lose_replies(1 + fault.among % 3)
    return done
