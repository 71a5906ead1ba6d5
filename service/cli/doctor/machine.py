"""The port, the disk and the caches."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.cli.doctor import neighbour
from service.cli.doctor.finding import Finding
from service.server.listen import CannotListen, PortInUse, is_loopback, listen
from service.settings import Settings

MEBIBYTE = 2**20
LEAST_FREE = 64 * MEBIBYTE
"""Below so many bytes the queue's server can't start, or stops at its first write."""


SLOW = "functions and palettes are made again at each start, which takes seconds"
SET_CACHE = "set XDG_CACHE_HOME to a folder that can be written"


def port(settings: Settings) -> Iterator[Finding]:
    try:
        listen(settings.host, settings.port).close()
    except PortInUse as error:
        if (running := neighbour.at_port(settings)) is not None:
            cure = "a second one needs another port (--port or PORT) and another data folder (--data-dir)"
            yield Finding("port", "ok", f"an arpg server answers at port {settings.port}: {running}", cure)
            return
        says, _, cure = str(error).partition(": ")
        yield Finding("port", "fault", says, cure)
        return
    except (CannotListen, OSError) as error:
        cure = "set HOST to an address of this machine, and PORT to one that this user may listen at (1024 or above)"
        yield Finding("port", "fault", str(error), cure)
        return
    where = f"{settings.host}, port {settings.port}, is free"
    if is_loopback(settings.host):
        yield Finding("port", "ok", where)
    else:
        yield Finding("port", "ok", f"{where}; other machines can reach it, so that requests will need an API key")


def disk(settings: Settings) -> Iterator[Finding]:
    """The data folder: the queue with its uploads and pictures, and the keys."""
    folder = settings.data_dir.absolute()
    problem = _unwritable(folder)
    if problem is not None:
        cure = "make it writable, or set ARPG_DATA_DIR to another folder"
        yield Finding("disk", "fault", f"the data folder {folder} can't be written: {problem}", cure)
        return
    free = shutil.disk_usage(existing(folder)).free
    says = f"{_mebibytes(free)} are free for the data folder {folder}"
    cure = "free some space, or set ARPG_DATA_DIR to a folder on another disk"
    # The append-only file holds what Redis holds, and twice that while it is rewritten.
    needed = 2 * settings.blob_bytes
    if free < LEAST_FREE:
        yield Finding("disk", "fault", f"{says}, and {_mebibytes(LEAST_FREE)} are needed", cure)
    elif free < needed:
        most = f"uploads and pictures may take {_mebibytes(needed)}"
        yield Finding("disk", "warning", f"{says}; {most}", f"{cure}, or lower ARPG_BLOB_BYTES")
    else:
        yield Finding("disk", "ok", says)


def caches(settings: Settings) -> Iterator[Finding]:
    """What is kept between starts: compiled functions and palettes, and downloaded models."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    except RuntimeError:  # a container's user may have no home
        yield Finding(
            "cache", "warning", "this user has no home folder: functions are compiled at each start", SET_CACHE
        )
        return
    problem = _unwritable(home)
    if problem is not None:
        yield Finding("cache", "warning", f"{home} can't be written ({problem}): {SLOW}", SET_CACHE)
    else:
        yield Finding("cache", "ok", f"{home} keeps compiled functions and palettes")
    yield _models_cache()


def _models_cache() -> Finding:
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        cure = "only for models that are fetched by name: pip install '.[hub]' in the checkout"
        return Finding("cache of models", "skipped", "huggingface-hub is not installed", cure)
    folder = Path(constants.HF_HUB_CACHE).absolute()
    problem = _unwritable(folder)
    if problem is not None:
        cure = "make it writable, or set HF_HOME to another folder"
        return Finding(
            "cache of models", "warning", f"{folder} can't be written ({problem}): no model is fetched", cure
        )
    return Finding(
        "cache of models", "ok", f"{folder}, with {_mebibytes(shutil.disk_usage(existing(folder)).free)} free"
    )


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be written into a folder, which need not exist yet. None: it can."""
    try:
        base = existing(folder)
        if not base.is_dir():
            return f"{base} is a file"
        with tempfile.TemporaryFile(dir=base) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        return error.strerror or str(error)
    return None


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _mebibytes(count: int) -> str:
    return f"{count / MEBIBYTE:,.0f} MiB"
