"""What an attack is: inputs made beforehand, and requests that are sent while the other client is watched."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.abuse.web import Site

PAUSE = 0.25
"""Seconds between two requests of one sender: a client with a key may send 600 a minute."""


@dataclass(frozen=True, slots=True)
class Target:
    """The service as the attacker sees it. data: its folder, for faults that no client can cause. seconds: how long
    the attack lasts. scale: 1 is the whole attack, less a part of it."""

    site: Site
    data: Path
    seconds: float
    scale: float = 1.0

    def many(self, count: int) -> int:
        return max(1, round(count * self.scale))


@dataclass(slots=True)
class Told:
    """What the attacker saw: statuses by what it sent, and each promise that did not hold."""

    statuses: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def expect(self, what: str, seen: object, *allowed: object) -> None:
        self.statuses[f"{what} {seen}"] += 1
        if seen not in allowed:
            self.broken.append(f"{what}: {seen}, not {' or '.join(map(str, allowed))}")


@dataclass(frozen=True, slots=True)
class Attack:
    """number: as in the table below. prepare(target) makes the inputs; strike(target, inputs) sends them. keyless: on a
    service without keys. bounded: the other client must be served in time meanwhile, and memory is bounded."""

    number: int
    title: str
    prepare: Callable[[Target], Any]
    strike: Callable[[Target, Any], Coroutine[Any, Any, Told]]
    keyless: bool = False
    bounded: bool = True


Send = Callable[[], Awaitable[str]]


async def hammer(seconds: float, *senders: Send, pause: float = PAUSE) -> Told:
    """Each sender sends again and again until the time is over, and waits for its last answer. All send at least
    once."""
    told = Told()
    until = time.monotonic() + seconds

    async def repeat(send: Send) -> None:
        while True:
            told.statuses[await send()] += 1
            await asyncio.sleep(pause)
            if time.monotonic() > until:
                return

    await asyncio.gather(*map(repeat, senders))
    return told


def in_turn(sends: Sequence[Send]) -> Send:
    """A sender that sends each of these in turn."""
    turn = 0

    async def send() -> str:
        nonlocal turn
        turn += 1
        return await sends[(turn - 1) % len(sends)]()

    return send
