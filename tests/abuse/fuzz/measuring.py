"""Decodes an upload as a decode process does, and measures it: processor time, memory, outcome."""

from __future__ import annotations

import ctypes
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from service.settings import Settings
from service.tasks.pictures.errors import ImageError, Limits
from service.tasks.pictures.masks import MaskMode
from service.tasks.pictures.reading import Upload, read_upload

SETTINGS = Settings(_env_file=None)
LIMITS = Limits(SETTINGS.max_pixels, SETTINGS.max_side)
MAX_SECONDS = 2.0
"""Of processor time, for each picture that is decoded."""

MAX_BYTES = 512 * 2**20
"""What decoding may add to a process."""

GRID = (16, 16)
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Measured:
    """outcome: `read`, or the code of the refusal. seconds: of processor time, for each picture. bytes: by how much the
    process grew, at its peak."""

    outcome: str
    seconds: float
    bytes: int


def measure(image: bytes, mode: MaskMode | None = None, mask: bytes | None = None) -> Measured:
    """mode: the transparency of the picture is the mask, unless there is a mask. Raises whatever is no refusal,
    warnings too."""
    decoded: list[str] = []
    _LIBC.malloc_trim(0)  # so that the decoder does not use memory that is free already
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    began = time.thread_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read_upload(Upload(image=image, mask=mask, mask_mode=mode, grid=GRID, limits=LIMITS), decoded.append)
            outcome = "read"
        except ImageError as error:
            outcome = error.code
    seconds = (time.thread_time() - began) / max(1, len(decoded))
    return Measured(outcome, seconds, max(0, _resident("VmHWM") - before))


def _resident(which: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {which}")
