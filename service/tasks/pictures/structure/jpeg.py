"""The segments and scans of a JPEG (ITU-T T.81)."""

from __future__ import annotations

import re

from service.tasks.pictures.structure.parts import (
    MAX_PARTS,
    Structure,
    check_profile,
    damaged,
    exif_orientation,
    joined,
    too_many,
    xmp_orientation,
)

SIGNATURE = b"\xff\xd8\xff"

MAX_SCANS = 100
"""Progressive files have about 10. A scan costs a pass over all blocks, even where it says nothing of them."""

_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP2, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF
_NO_LENGTH = frozenset({0x01, *range(0xD0, 0xD8), _SOI})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FILL = re.compile(rb"\xff+")
_SCAN = re.compile(rb"(?:[^\xff]++|\xff++[\x00\xd0-\xd7])*+")
"""The data of a scan: FF is stuffed with 00, or begins a restart marker. Possessive, so each byte is looked at once."""

_EXIF, _XMP, _PROFILE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"


def inspect(data: bytes) -> Structure:
    """Raises StructureError."""
    kept, frames = [(0, 2)], []
    orientation, scans, profile = 1, 0, 0
    at, parts = 2, 0
    while True:
        parts += 1
        if parts > MAX_PARTS:
            raise too_many("segments", MAX_PARTS)
        fill = _FILL.match(data, at)  # a marker is FF and a byte, after any number of FF
        if fill is None or fill.end() == len(data):
            raise damaged("a segment is missing, or it ends in the middle")
        at = fill.end() - 1
        marker = data[at + 1]
        if marker == _EOI:
            kept.append((at, at + 2))
            break
        if marker in _NO_LENGTH:
            at += 2
            continue
        body, end = at + 4, at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if not body <= end <= len(data):
            raise damaged("it ends in the middle")
        if marker in _FRAMES:
            height, width = data[body + 1 : body + 3], data[body + 3 : body + 5]
            frames.append((int.from_bytes(height, "big"), int.from_bytes(width, "big")))
        elif marker == _APP1 and data.startswith(_EXIF, body):
            orientation = exif_orientation(data[body:end])
        elif marker == _APP1 and data.startswith(_XMP, body) and orientation == 1:
            orientation = xmp_orientation(data[body:end])
        own_profile = marker == _APP2 and data.startswith(_PROFILE, body)
        if own_profile:
            profile += end - body
            check_profile(profile)
        if marker == _SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise too_many("scans", MAX_SCANS)
            following = _SCAN.match(data, end)
            assert following is not None  # of any length
            end = following.end()
        if own_profile or marker in (_APP0, _APP14) or not (_APP0 <= marker <= _APP15 or marker == _COM):
            kept.append((at, end))
        at = end
    if not frames or not scans:
        raise damaged("it has no picture")
    return Structure("JPEG", tuple(frames), orientation, joined(data, kept))
