"""`arpg doctor`: looks at all that `arpg serve` needs, and says of each fault what cures it."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict

from service.cli.doctor import machine, models, neighbour, packages, redis
from service.cli.doctor.finding import Finding
from service.settings import Settings

SIGNS = {"ok": "ok", "warning": "warning", "fault": "FAULT", "skipped": "skipped"}

CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    packages.python,
    packages.torch,
    packages.cuda,
    packages.triton,
    redis.redis,
    machine.port,
    machine.disk,
    machine.caches,
    models.checkpoints,
)


def doctor(parsed: Namespace, settings: Settings) -> int:
    """The exit status: 0 if nothing keeps `arpg serve` from running with these settings, else 1."""
    found = []
    for check in CHECKS:
        for finding in check(settings):
            found.append(finding)
            if not parsed.json:
                _print(finding)
    healthy = not any(finding.state == "fault" for finding in found)
    if parsed.json:
        print(json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in found]}, indent=1))
    else:
        print(_sum(sum(finding.state == "fault" for finding in found), settings), flush=True)
    return 0 if healthy else 1


def _sum(faults: int, settings: Settings) -> str:
    if faults:
        return f"{faults} fault{'s' if faults > 1 else ''}"
    return "arpg serve can run here" if neighbour.at_port(settings) is None else "an arpg server runs here"


def _print(finding: Finding) -> None:
    print(f"{SIGNS[finding.state]:8} {finding.subject}: {finding.says}", flush=True)
    if finding.cure:
        print(f"{'':8} → {finding.cure}", flush=True)
