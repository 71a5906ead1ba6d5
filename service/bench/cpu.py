"""Processor time of a process and its children, by thread name. Linux only."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
COMPUTING = ("engine", "codec", "palettes")
"""The worker's threads that run the model; the threads of their OpenMP teams have the same names."""


def descendants(pid: int) -> list[int]:
    """The process and all that it started, directly or not."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(entry)) is not None:
            parents[int(entry.name)] = int(fields[1])
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += [child for child, parent in parents.items() if parent == one]
    return found


def seconds_by_part(pid: int) -> dict[str, float]:
    """Seconds of processor time since the start: `engine`, `codec`, `palettes`; `valkey`; `rest` (the event loop, the
    HTTP server and all other threads)."""
    parts: dict[str, float] = defaultdict(float)
    for process in descendants(pid):
        folder = Path("/proc") / str(process)
        total, own = _seconds(folder), 0.0
        if "valkey" in _name(folder) or "redis" in _name(folder):
            parts["valkey"] += total
            continue
        try:
            threads = list((folder / "task").iterdir())
        except OSError:
            continue
        for thread in threads:
            if (name := _name(thread)) in COMPUTING:
                parts[name] += (used := _seconds(thread))
                own += used
        parts["rest"] += total - own
    return parts


def _stat(folder: Path) -> list[str] | None:
    """The fields after the name: state, parent …"""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None  # it ended meanwhile


def _seconds(folder: Path) -> float:
    fields = _stat(folder)
    return 0.0 if fields is None else (int(fields[11]) + int(fields[12])) / TICKS


def _name(folder: Path) -> str:
    try:
        return (folder / "comm").read_text().strip()
    except OSError:
        return ""
