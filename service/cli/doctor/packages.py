"""Python, torch and what a GPU needs."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from service.cli.doctor.finding import Finding
from service.settings import Settings

OLDEST_PYTHON = (3, 11)
INSTALL = "pip install '.[service]' in the checkout"
NEEDED = ("fastapi", "uvicorn", "redis", "safetensors", "tokenizers", "ftfy", "bs4")
"""Modules of the extra `service`, besides torch."""

DEVICE = re.compile(r"cpu|cuda(:\d+)?")
GIBIBYTE = 2**30
OLDEST_GPU = (8, 0)
"""The compute capability from which bfloat16 is computed in hardware."""


def python(settings: Settings) -> Iterator[Finding]:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        yield Finding("python", "fault", f"Python {version} is too old", "use Python 3.11 or newer")
        return
    missing = [name for name in NEEDED if not _is_there(name)]
    if missing:
        yield Finding("python", "fault", f"Python {version} lacks {', '.join(missing)}", INSTALL)
    else:
        yield Finding("python", "ok", f"Python {version}, arpg-serve {_version('arpg-serve')}")


def torch(settings: Settings) -> Iterator[Finding]:
    module, problem = imported("torch")
    if module is not None:
        yield Finding("torch", "ok", f"torch {module.__version__}")
    elif problem is None:
        yield Finding("torch", "fault", "torch is not installed: nothing can be drawn", INSTALL)
    else:
        again = "pip install --force-reinstall torch"
        yield Finding("torch", "fault", f"torch is installed and can't be imported: {problem}", again)


def cuda(settings: Settings) -> Iterator[Finding]:
    module, _ = imported("torch")
    if module is None:
        yield Finding("cuda", "skipped", "needs torch")
        return
    asked = settings.device or ""
    if not DEVICE.fullmatch(asked or "cpu"):
        cure = "set ARPG_DEVICE to cpu, cuda, or cuda:1 for the second GPU, or leave it out"
        yield Finding("cuda", "fault", f"there is no device {asked!r}", cure)
        return
    if module.cuda.is_available():
        yield from _devices(module, asked)
        return
    if module.version.cuda is None and module.version.hip is None:
        reason, cure = "this torch was built without CUDA", "pip install --force-reinstall torch, without a CPU index"
    else:
        reason = f"torch {module.__version__} finds no GPU that it can use"
        cure = "nvidia-smi must list the GPU: install or update its driver, or pass it to the container (--gpus all)"
    if asked.startswith("cuda"):
        cure += "; or let the CPU draw: ARPG_DEVICE=cpu"
        yield Finding("cuda", "fault", f"the device is to be {asked}, and {reason}", cure)
    elif _has_gpu():
        yield Finding("cuda", "warning", f"this machine has a GPU, but {reason}: the CPU draws", cure)
    else:
        yield Finding("cuda", "ok", "this machine has no GPU: the CPU draws")


def triton(settings: Settings) -> Iterator[Finding]:
    module, _ = imported("torch")
    if module is None or not module.cuda.is_available() or settings.device == "cpu":
        yield Finding("triton", "skipped", "only a GPU needs it")
        return
    found, problem = imported("triton")
    if found is None:
        what = "is not installed" if problem is None else f"can't be imported: {problem}"
        yield Finding("triton", "fault", f"triton {what}: the GPU's kernels can't be compiled", "pip install triton")
    elif not any(map(shutil.which, ("cc", "gcc", "clang"))):
        cure = "install one: apt install gcc"
        yield Finding("triton", "fault", f"triton {found.__version__} finds no C compiler, which it needs", cure)
    else:
        yield Finding("triton", "ok", f"triton {found.__version__}")


def _devices(torch: Any, asked: str) -> Iterator[Finding]:
    count = torch.cuda.device_count()
    index = int(asked.partition(":")[2] or 0) if asked.startswith("cuda") else 0
    if index >= count:
        cure = f"set ARPG_DEVICE to one of {', '.join(f'cuda:{i}' for i in range(count))}"
        yield Finding("cuda", "fault", f"there is no {asked}: {count} GPU{'s' if count > 1 else ''}", cure)
        return
    try:
        torch.zeros(1, device=f"cuda:{index}").item()
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        problem = str(error).strip().splitlines()[0]
        cure = "nvidia-smi shows whether another program holds the GPU; end it, or choose another (ARPG_DEVICE=cuda:1)"
        yield Finding("cuda", "fault", f"the GPU can't be used: {problem}", cure)
        return
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    memory = f"{free / GIBIBYTE:.1f} of {total / GIBIBYTE:.1f} GiB free"
    said = f"{name}, {memory}, CUDA {torch.version.cuda}"
    if capability < OLDEST_GPU:
        yield Finding("cuda", "warning", f"{said}; it has no bfloat16", "draw in float32: ARPG_DTYPE=float32")
    else:
        yield Finding("cuda", "ok", said)


def _has_gpu() -> bool:
    return Path("/proc/driver/nvidia/gpus").is_dir() or shutil.which("nvidia-smi") is not None


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def imported(name: str) -> tuple[Any, str | None]:
    """The module, or why it can't be imported; neither: it is not installed."""
    try:
        return importlib.import_module(name), None
    except ModuleNotFoundError as missing:
        return None, None if missing.name == name else f"{missing.name} is missing"
    except Exception as error:  # a broken installation raises almost anything
        return None, f"{type(error).__name__}: {error}"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"
