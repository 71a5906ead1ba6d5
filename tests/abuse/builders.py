"""Hostile files, made by code: pieces of PNG, JPEG, WebP and EXIF, put together as an attacker would."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
BLOCK = 8
"""The side of a JPEG's blocks, in pixels."""

LONGEST_RUN = 2**15 - 1
"""Blocks that one code of a progressive JPEG can skip."""

TIFF_ASCII = 2


def chunk(kind: bytes, body: bytes = b"", *, size: int | None = None, crc: int | None = None) -> bytes:
    """A chunk of a PNG. size, crc: lies in place of the true ones."""
    length = len(body) if size is None else size
    return struct.pack(">I", length) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)


def header(width: int, height: int, *, depth: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    """IHDR. colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))


def png(*chunks: bytes) -> bytes:
    return PNG_START + b"".join(chunks) + chunk(b"IEND")


def png_with(*extra: bytes, side: int = 64) -> bytes:
    """A black picture with these chunks before its pixels."""
    rows = zlib.compress(bytes(side * (1 + 3 * side)), 9)
    return png(header(side, side), *extra, chunk(b"IDAT", rows))


def crowded_png(count: int) -> bytes:
    """A small picture with this many empty chunks, 12 bytes each."""
    return png_with(chunk(b"aaAa") * count)


def flat_png(side: int, mode: str = "RGB") -> bytes:
    """A picture of one colour: 16 million pixels are 50 kB."""
    return saved(Image.new(mode, (side, side)), "PNG", compress_level=9)


def mask_png(side: int) -> bytes:
    """A mask that selects the middle."""
    mask = Image.new("1", (side, side))
    mask.paste(1, (side // 4, side // 4, side // 2, side // 2))
    return saved(mask, "PNG", compress_level=9)


def noise_png(height: int, width: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return saved(Image.fromarray(pixels), "PNG")


def saved(picture: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def exif(entries: int, *, count: int = 2**30, offset: int = 8) -> bytes:
    """A TIFF block whose tags say that they are texts of this length. Pillow warns of each."""
    tags = b"".join(struct.pack("<HHII", tag, TIFF_ASCII, count, offset) for tag in range(entries))
    return b"II*\0" + struct.pack("<IH", 8, entries) + tags + bytes(4)


# ---- JPEG -----------------------------------------------------------------------------------------------------------


def segment(marker: int, body: bytes, *, size: int | None = None) -> bytes:
    """A part of a JPEG. size: a lie in place of the true one."""
    return struct.pack(">BBH", 0xFF, marker, (len(body) if size is None else size) + 2) + body


def bits(codes: Iterable[tuple[int, int]]) -> bytes:
    """(value, width) after each other, filled up with ones, with a zero after each FF."""
    text = "".join(f"{value:0{width}b}" for value, width in codes)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0") if text else b""


def progressive_jpeg(side: int, scans: int) -> bytes:
    """A grey picture with this many scans that change no coefficient. The decoder visits every block in each."""
    blocks = (side // BLOCK) ** 2
    runs, rest = divmod(blocks, LONGEST_RUN)
    skipping = bits([(0, 1), (2**14 - 1, 14)] * (runs + bool(rest)))  # a code for "14 more bits: blocks to skip"
    scan = segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + skipping
    return b"".join(
        [
            JPEG_START,
            segment(0xDB, bytes([0]) + bytes([1] * 64)),
            segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])),
            segment(0xC4, bytes([0x00, 1, *[0] * 15, 0])),  # the code 0: the same grey as in the last block
            segment(0xC4, bytes([0x10, 1, *[0] * 15, 0xE0])),
            segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(-(-blocks // 8)),
            scan * scans,
            JPEG_END,
        ]
    )


# ---- WebP -----------------------------------------------------------------------------------------------------------


def riff(*parts: bytes, size: int | None = None) -> bytes:
    """A WebP file of these parts. size: a lie in place of the true one."""
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def part(kind: bytes, body: bytes = b"", *, size: int | None = None) -> bytes:
    return kind + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def parts_of(webp: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, body) of each part of a well-formed file."""
    found, at = [], 12
    while at + 8 <= len(webp):
        size = struct.unpack("<I", webp[at + 4 : at + 8])[0]
        found.append((webp[at : at + 4], webp[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return found


def webp_with(kind: bytes, body: bytes, *, side: int = 64) -> bytes:
    """A small picture with another part: `EXIF`, `ICCP`, `XMP `."""
    flags = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}[kind]
    pixels = [part(*one) for one in parts_of(saved(Image.new("RGB", (side, side)), "WEBP", lossless=True))]
    extent = (side - 1).to_bytes(3, "little")
    parts = [part(b"VP8X", bytes([flags, 0, 0, 0]) + extent + extent), *pixels]
    parts.insert(1 if kind == b"ICCP" else len(parts), part(kind, body))
    return riff(*parts)
