"""What a measurement depends on besides the code: versions, threads, processor."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy
import torch


def environment(device: str) -> dict[str, Any]:
    """Versions, processor and threads, as JSON."""
    facts: dict[str, Any] = {
        "arpg-serve": _own_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "device": device,
        "processor": processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def processor() -> str:
    """The processor's name, with what matters of its instruction sets."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        entries = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        names = {key.strip(): value.strip() for key, value in entries.items()}
        name = names.get("model name", name)
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def _own_version() -> str:
    try:
        return version("arpg-serve")
    except PackageNotFoundError:
        return "not installed"
