"""What must hold while one client attacks, and the table of what did."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from tests.abuse.bystander import Bystander
from tests.abuse.run import Report
from tests.abuse.weight import Sizes

HEALTH_SECONDS = 0.1
"""p99 of /healthz."""

PICTURE_SECONDS = 3.0
"""The slowest picture of 8 steps, and the slowest upload answered as WebP."""

MAX_BYTES = 1.5e9
"""RSS of API, worker and decode processes together."""

GROWTH = 1.1
"""RSS 30 s later, against the start."""


def broken(report: Report) -> list[str]:
    """Each bound that does not hold. Empty: all do."""
    other, memory = report.other, report.memory
    found = list(report.told.broken)
    if not report.attack.bounded:
        return found
    if (p99 := other.health.quantile(0.99)) > HEALTH_SECONDS:
        found.append(f"/healthz p99 {1000 * p99:.0f} ms > {1000 * HEALTH_SECONDS:.0f} ms")
    for what, seen in (("picture", other.pictures), ("upload", other.uploads)):
        if (slowest := seen.quantile(1.0)) > PICTURE_SECONDS:
            found.append(f"{what} {slowest:.1f} s > {PICTURE_SECONDS:g} s")
    for what, seen in (("/healthz", other.health), ("picture", other.pictures), ("upload", other.uploads)):
        if seen.refused:
            found.append(f"{what}: {_counted(seen.outcomes)}")
    start, peak, after = (sizes.total() for sizes in (memory.start, memory.peak, memory.after))
    if peak > MAX_BYTES:
        found.append(f"RSS {peak / 1e9:.2f} GB > {MAX_BYTES / 1e9:g} GB: {megabytes(memory.peak)}")
    if after > GROWTH * start:
        grown = f"{megabytes(memory.start)}, later {megabytes(memory.after)}"
        found.append(f"RSS later {after / start:.2f} × the start > {GROWTH:g} ×: {grown}")
    return found


def line(report: Report) -> list[str]:
    """Cells under HEADS."""
    memory = report.memory
    sizes = "/".join(f"{size.total() / 1e6:.0f}" for size in (memory.start, memory.peak, memory.after))
    title = f"{report.attack.number} {report.attack.title}"
    verdict = "holds" if not broken(report) else "BROKEN"
    return [
        title,
        *_seen(report.quiet),
        *_seen(report.other),
        sizes,
        f"{report.processor:.0f} of {report.seconds:.0f}",
        verdict,
    ]


def _seen(other: Bystander) -> list[str]:
    health = "/".join(f"{1000 * other.health.quantile(share):.0f}" for share in (0.5, 0.99, 1.0))
    return [health, *(f"{seen.quantile(1.0):.1f}" for seen in (other.pictures, other.uploads))]


HEADS = ["attack", *["healthz ms p50/p99/max", "picture s", "upload s"] * 2, "RSS MB start/peak/later", "API s", ""]
"""Twice what the other client saw: before the attack and while it lasted. Pictures and uploads: the slowest. Last:
the API's seconds of processor time, of the seconds that the attack took."""


def busy(report: Report) -> str:
    """A warning, if other programs compete for the processors; else empty."""
    cores = len(os.sched_getaffinity(0))
    if report.load < cores:
        return ""
    return f"{report.load:.0f} other processes wanted {cores} cores before the service started: its times say little"


def table(reports: Sequence[Report]) -> str:
    rows = [HEADS, *map(line, reports)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def to_json(report: Report) -> dict[str, Any]:
    memory = report.memory
    return {
        "attack": report.attack.number,
        "title": report.attack.title,
        "seconds": round(report.seconds, 1),
        "processor_seconds_of_api": round(report.processor, 1),
        "load": report.load,
        "before": _json(report.quiet),
        "meanwhile": _json(report.other),
        "rss": {"start": dict(memory.start), "peak": dict(memory.peak), "after": dict(memory.after)},
        "attacker": dict(report.told.statuses),
        "broken": broken(report),
    }


def _json(other: Bystander) -> dict[str, Any]:
    all_seen = {"healthz": other.health, "picture": other.pictures, "upload": other.uploads}
    return {
        name: {"outcomes": dict(seen.outcomes)}
        | {f"{quantile}_ms": round(1000 * seen.quantile(share), 1) for quantile, share in _SHARES.items()}
        for name, seen in all_seen.items()
    }


_SHARES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def megabytes(sizes: Sizes) -> str:
    return " + ".join(f"{name} {size / 1e6:.0f}" for name, size in sorted(sizes.items())) + " MB"


def _counted(outcomes: Any) -> str:
    return ", ".join(f"{outcome} ×{times}" for outcome, times in sorted(outcomes.items()))
