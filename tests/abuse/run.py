"""One attack against a service of its own: the attacker in another process, the other client watched in this one."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from tests.abuse.attacks import bodies, claims, pictures
from tests.abuse.attacks.attack import Attack, Target, Told
from tests.abuse.bystander import STEPS, Bystander
from tests.abuse.web import Site
from tests.abuse.weight import Memory, Weight
from tests.load.service import Service, serving

ATTACKS: Mapping[int, Attack] = {
    attack.number: attack
    for attack in sorted((*bodies.ATTACKS, *pictures.ATTACKS, *claims.ATTACKS), key=lambda one: one.number)
}

HOSTILE, ORDINARY = "hostile", "ordinary"
DEFAULTS = {"PORT": "0"}
"""The environment of the service: default settings, on a free port."""

AT_ONCE = 16
"""Pictures and uploads of the warm-up."""

LIMIT = 600.0
"""Seconds after which an attacker that has not ended is given up."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: of the time before the attack, in which only the other client is served; of the attack; and of the rest
    after which memory is back."""

    quiet: float = 6.0
    attack: float = 20.0
    resting: float = 30.0


@dataclass(frozen=True, slots=True)
class Report:
    """quiet, other: what the other client saw before the attack and while it lasted. processor: seconds of
    processor time that the API used meanwhile. load: processes that wanted to run
    before the service started, as the system counts them."""

    attack: Attack
    quiet: Bystander
    other: Bystander
    told: Told
    memory: Memory
    seconds: float
    processor: float
    load: float


def run(attack: Attack, timing: Timing, scale: float = 1.0, log: Path | None = None) -> Report:
    """log: where to keep what the service printed."""
    with tempfile.TemporaryDirectory(prefix="abuse-") as folder:
        data, load = Path(folder), os.getloadavg()[0]
        weights = {} if attack.keyless else {HOSTILE: 1.0, ORDINARY: 1.0}
        with serving(data, weights, DEFAULTS) as service:
            try:
                return asyncio.run(_attacked(service, attack, timing, scale, load))
            finally:
                if log is not None:
                    log.write_bytes((data / "arpg.log").read_bytes())


async def _attacked(service: Service, attack: Attack, timing: Timing, scale: float, load: float) -> Report:
    site = Site(service.url, service.keys.get(HOSTILE, ""))
    attacker = Attacker(attack, Target(site, service.data, timing.attack, scale))
    try:
        ordinary = Site(service.url, service.keys.get(ORDINARY, ""))
        upload = await _warmed_up(ordinary)
        await attacker.ready()
        quiet = Bystander(ordinary, upload)
        await quiet.run(_after(timing.quiet))
        weight = Weight(service)
        before = weight.processor()
        began, stop, other = time.monotonic(), asyncio.Event(), Bystander(ordinary, upload)
        watching = [asyncio.ensure_future(other.run(stop)), asyncio.ensure_future(weight.watch(stop))]
        try:
            told = await attacker.strike()
        finally:
            stop.set()
            await asyncio.gather(*watching)
        seconds, processor = time.monotonic() - began, weight.processor() - before
    finally:
        attacker.end()
    await asyncio.sleep(timing.resting if attack.bounded else 0.0)
    return Report(attack, quiet, other, told, Memory(weight.start, weight.peak, weight.now()), seconds, processor, load)


def _after(seconds: float) -> asyncio.Event:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, event.set)
    return event


async def _warmed_up(site: Site) -> bytes:
    """A picture that was drawn here. Uploads and many pictures at once take the memory that ordinary work needs."""
    drawn = await site.post("/v1/generate", {"steps": STEPS}, accept="image/png")
    assert drawn.outcome == "200", drawn
    other = Bystander(site, drawn.body)
    many = (*(other.picture() for _ in range(AT_ONCE)), *(other.upload() for _ in range(AT_ONCE)))
    for answer in await asyncio.gather(*many):
        assert answer.outcome == "200", answer
    return drawn.body


class Attacker:
    """The attack in a process of its own, at a lower priority: an attacker has a machine of its own."""

    def __init__(self, attack: Attack, target: Target) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_attack, args=(attack.number, target, theirs), daemon=True)
        self._process.start()
        theirs.close()

    async def ready(self) -> None:
        """Returns when the inputs are made."""
        await asyncio.to_thread(self._ours.recv)

    async def strike(self) -> Told:
        self._ours.send(None)
        if not await asyncio.to_thread(self._ours.poll, LIMIT):
            return Told(broken=[f"the attack did not end within {LIMIT:g} s"])
        told: Told = self._ours.recv()
        return told

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def _attack(number: int, target: Target, driver: Connection) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # with the driver
    os.nice(10)
    attack = ATTACKS[number]
    inputs = attack.prepare(target)
    driver.send(None)
    driver.recv()
    driver.send(asyncio.run(attack.strike(target, inputs)))
