"""What the walks over PNG, JPEG and WebP share. A walk reads lengths and headers, no pixels, and takes milliseconds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

MAX_PARTS = 16_384
"""Chunks or segments of a file. Encoders write one for each 8 kB or so of pixels; Pillow takes 10 µs for each."""

MAX_PROFILE = 4 * 2**20
"""Bytes of a colour profile. A display's has 1 kB, a printer's up to 3 MB."""

_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


class StructureError(ValueError):
    """A file that is not decoded. code is for programs, status for HTTP."""

    def __init__(self, code: str, message: str, *, status: int = 422) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Structure:
    """sizes: height and width of the picture as it is stored, then those of its frames. orientation: as in EXIF, 1 … 8.
    file: without the metadata that no pixel depends on: Pillow would parse it, at a cost that the file decides."""

    format: Literal["PNG", "JPEG", "WEBP"]
    sizes: tuple[tuple[int, int], ...]
    orientation: int
    file: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright picture."""
        height, width = self.sizes[0]
        return (width, height) if self.orientation >= 5 else (height, width)


def damaged(what: str) -> StructureError:
    return StructureError("damaged", f"the file is damaged: {what}; save it again")


def too_many(what: str, most: int) -> StructureError:
    return StructureError(
        "too_complex", f"the file has more than {most:,} {what}; save it again as an ordinary PNG or JPEG"
    )


def check_profile(length: int) -> None:
    """Raises StructureError."""
    if length > MAX_PROFILE:
        raise StructureError(
            "profile_too_large",
            f"its colour profile has {length:,} bytes, at most {MAX_PROFILE:,} are taken; convert the picture to sRGB",
            status=413,
        )


def animated() -> StructureError:
    return StructureError("animated", "animated pictures are not taken; send a single frame")


def joined(data: bytes, ranges: Iterable[tuple[int, int]]) -> bytes:
    """These ranges of the data, begin and end, one after the other."""
    view = memoryview(data)
    return b"".join(view[begin:end] for begin, end in ranges)


def exif_orientation(exif: bytes) -> int:
    """1 … 8, from the first directory of an EXIF block; 1 where it has none. Reads nothing else of the block."""
    exif = exif.removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "little" if exif[:2] == b"II" else "big"
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    at = int.from_bytes(exif[4:8], order)
    for entry in range(min(int.from_bytes(exif[at : at + 2], order), 1000)):
        tag = exif[at + 2 + 12 * entry : at + 14 + 12 * entry]
        if int.from_bytes(tag[:2], order) == 0x0112:
            value = int.from_bytes(tag[8:10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def xmp_orientation(xmp: bytes) -> int:
    """As exif_orientation."""
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1
