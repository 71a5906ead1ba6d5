"""The chunks of a PNG (W3C, Portable Network Graphics, third edition)."""

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

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_OF_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP"})
_XMP = b"XML:com.adobe.xmp\0"


def inspect(data: bytes, keyword: bytes) -> Structure:
    """keyword: of the text chunk that is kept. Raises StructureError."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise damaged("it does not begin with an IHDR chunk")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    kept, orientation, texts = [(0, 8)], 1, 0
    at = 8
    for _ in range(MAX_PARTS):
        kind = data[at + 4 : at + 8]
        length = int.from_bytes(data[at : at + 4], "big")
        body, end = at + 8, at + 12 + length
        cut = len(kind) < 4 or end > len(data)  # perhaps behind the last pixel, and then the picture is whole
        end = min(end, len(data))
        if kind == b"acTL" and int.from_bytes(data[body : body + 4], "big") > 1:
            raise animated()
        if kind == b"eXIf":
            orientation = exif_orientation(data[body : body + length])
        elif kind == b"iTXt" and data.startswith(_XMP, body) and orientation == 1:
            orientation = xmp_orientation(data[body : body + length])
        own = kind in (b"tEXt", b"zTXt", b"iTXt") and data.startswith(keyword + b"\0", body)
        texts += own
        if kind == b"iCCP":
            check_profile(length)
        if kind in _OF_PIXELS or (own and texts == 1):
            kept.append((at, end))
        if kind == b"IEND" or cut:
            return Structure("PNG", ((height, width),), orientation, joined(data, kept))
        at = end
    raise too_many("chunks", MAX_PARTS)
