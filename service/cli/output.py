"""Where a drawing command writes its pictures. The path is checked before anything is drawn."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.jobs.result import JobWarning
from service.tasks.pictures.images import Format

FORMATS: dict[str, Format] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""By extension."""


class OutputError(Exception):
    """The pictures could not be written there. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A finished picture, as a file in the output's format. width, height: pixels."""

    file: bytes
    seed: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """server, job: None for pictures that this process drew."""

    task: str
    model: str
    seconds: float
    pictures: list[Drawn]
    warnings: Sequence[JobWarning]
    server: str | None = None
    job: str | None = None


def format_of(path: Path) -> Format:
    """Raises OutputError."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        is_now = f"not {path.suffix}" if path.suffix else "it has none"
        raise OutputError(f"{path}: the extension must be one of {', '.join(FORMATS)}; {is_now}") from None


def paths(path: Path, count: int) -> list[Path]:
    """The files of so many pictures: the path, or numbered names."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{index}") for index in range(count)]


def check(path: Path, count: int) -> None:
    """Raises OutputError if the files can't be written."""
    format_of(path)
    folder = path.parent
    if not folder.is_dir():
        remedy = "it is a file" if folder.exists() else f"make it first: mkdir -p {folder}"
        raise OutputError(f"{path}: there is no folder {folder}; {remedy}")
    for file in paths(path, count):
        if file.is_dir():
            raise OutputError(f"{file}: this is a folder; name a file")
        try:
            _open(file)
        except OSError as error:
            remedy = "choose another place or change its permissions"
            raise OutputError(f"{file}: can't be written ({error.strerror}); {remedy}") from None


def _open(file: Path) -> None:
    """As it will be written, without changing it. Raises OSError."""
    if file.exists():
        file.open("r+b").close()
    else:
        tempfile.TemporaryFile(dir=file.parent).close()


def save(path: Path, result: Result, *, as_json: bool) -> None:
    """Writes the files, and tells of them on standard output; of times and warnings on standard error."""
    print(f"drawn in {result.seconds:.1f} s", file=sys.stderr)
    for warning in result.warnings:
        print(f"arpg: warning: {warning.message}", file=sys.stderr)
    files = paths(path, len(result.pictures))
    for file, picture in zip(files, result.pictures, strict=True):
        file.write_bytes(picture.file)
        if not as_json:
            print(f"{file}  seed {picture.seed}")
    if as_json:
        print(json.dumps(_told(result, files), indent=1))


def _told(result: Result, files: list[Path]) -> dict[str, Any]:
    pictures = [
        {"path": str(file), "seed": picture.seed, "width": picture.width, "height": picture.height}
        for file, picture in zip(files, result.pictures, strict=True)
    ]
    return {
        "task": result.task,
        "model": result.model,
        "pictures": pictures,
        "seconds": round(result.seconds, 3),
        "warnings": [warning.model_dump() for warning in result.warnings],
        "server": result.server,
        "job": result.job,
    }
