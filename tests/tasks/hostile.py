"""Files that are small and cost much to decode."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_chunks(*extra: bytes, side: int = 8) -> bytes:
    """A black picture with these chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * side * (3 * side + 1)))
    return PNG + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def flat_png(side: int = 4096) -> bytes:
    """Some kilobytes; 50 MB of pixels."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 90)).save(file, "PNG", compress_level=9)
    return file.getvalue()


def jpeg_of_scans(scans: int, side: int = 64) -> bytes:
    """A progressive picture, and then scans of its first component that change no coefficient."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (90, 90, 90)).save(file, "JPEG", progressive=True, quality=50)
    bits, blocks = "", (side // 8) ** 2
    while blocks >= 2**14:  # runs of empty blocks: the code 0, and 14 bits for the length
        run = min(blocks, 2**15 - 1)
        bits, blocks = bits + "0" + format(run - 2**14, "014b"), blocks - run
    bits += "0" + "1" * 14 if blocks else ""  # a run beyond the end
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    table = b"\xff\xc4" + struct.pack(">H", 20) + bytes([0x10, 1, *[0] * 15, 0xE0])
    scan = b"\xff\xda" + struct.pack(">HB", 8, 1) + bytes([1, 0x00, 1, 63, 0x00]) + data
    return file.getvalue()[:-2] + table + scan * scans + b"\xff\xd9"


def exif(entries: int, orientation: int | None = None) -> bytes:
    """An EXIF block whose tags are many and unreadable."""
    tags = [struct.pack("<HHII", 0x9000 + index % 4096, 99, 2**31, 2**31) for index in range(entries)]
    if orientation is not None:
        tags.insert(0, struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags) + b"\0" * 4
