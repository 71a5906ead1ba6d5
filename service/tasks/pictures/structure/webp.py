"""The chunks of a WebP (RFC 9649)."""

from __future__ import annotations

from service.tasks.pictures.structure.parts import (
    MAX_PARTS,
    Structure,
    animated,
    check_profile,
    damaged,
    exif_orientation,
    joined,
    too_many,
    xmp_orientation,
)

_OF_PIXELS = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP", b"ANIM", b"ANMF"})
_FLAGS_KEPT = ~0x0C
"""In VP8X: all but those of EXIF and XMP."""


def is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def inspect(data: bytes) -> Structure:
    """Raises StructureError."""
    stated = 8 + int.from_bytes(data[4:8], "little")
    if stated > len(data):
        raise damaged("it ends in the middle")
    kept, sizes = [(12, 12)], []
    orientation, frames, at = 1, 0, 12
    for _ in range(MAX_PARTS):
        if at + 8 > stated:
            break
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body, end = at + 8, at + 8 + length + length % 2
        if body + length > stated:
            raise damaged("it ends in the middle")
        size = _size(kind, data[body : body + 16])
        if size is not None:
            sizes.append(size)
        if kind == b"ANMF":
            frames += 1
            if frames > 1:
                raise animated()
        elif kind == b"EXIF":
            orientation = exif_orientation(data[body : body + length])
        elif kind == b"XMP " and orientation == 1:
            orientation = xmp_orientation(data[body : body + length])
        elif kind == b"ICCP":
            check_profile(length)
        if kind in _OF_PIXELS:
            kept.append((at, min(end, len(data))))
        at = end
    else:
        raise too_many("chunks", MAX_PARTS)
    if not sizes:
        raise damaged("it has no picture")
    return Structure("WEBP", tuple(sizes), orientation, _container(joined(data, kept)))


def _container(chunks: bytes) -> bytes:
    body = bytearray(b"WEBP" + chunks)
    if body[4:8] == b"VP8X" and len(body) > 12:
        body[12] &= _FLAGS_KEPT
    return b"RIFF" + len(body).to_bytes(4, "little") + bytes(body)


def _size(kind: bytes, head: bytes) -> tuple[int, int] | None:
    """Height and width that a chunk states; None: it states none."""

    def number(begin: int, end: int) -> int:
        return int.from_bytes(head[begin:end], "little")

    if kind == b"VP8X":
        return number(7, 10) + 1, number(4, 7) + 1
    if kind == b"ANMF":
        return number(9, 12) + 1, number(6, 9) + 1
    if kind == b"VP8 " and head[3:6] == b"\x9d\x01\x2a":
        return number(8, 10) & 0x3FFF, number(6, 8) & 0x3FFF
    if kind == b"VP8L" and head[:1] == b"\x2f":
        bits = number(1, 5)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return None
