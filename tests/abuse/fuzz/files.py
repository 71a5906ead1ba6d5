"""Hypothesis strategies for uploads: files that are well-formed, that lie, and that are damaged."""

from __future__ import annotations

import functools
import struct
import zlib
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tests.abuse.builders import (
    JPEG_END,
    JPEG_START,
    chunk,
    exif,
    header,
    part,
    parts_of,
    png,
    progressive_jpeg,
    riff,
    saved,
    segment,
)

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By the colour type of a PNG."""

MOST_PIXELS = 4096 * 4097 * 4
"""Bytes."""

ENDLESS = 64 * 2**20
"""Bytes that a kilobyte of zlib becomes."""

Draw = st.DrawFn


def rarely(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any], one_in: int = 8) -> st.SearchStrategy[Any]:
    return st.integers(1, one_in).flatmap(lambda number: rare if number == one_in else usual)


sides = rarely(st.integers(1, 64), st.sampled_from([0, 1, 2048, 4096, 4097, 8192, 8193, 2**16 - 1]))


def some(extras: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Often none."""
    return st.one_of(st.just([]), st.lists(extras, max_size=3))


counts = rarely(st.integers(0, 3), st.sampled_from([10, 99, 101, 1000, 16_385, 50_000]))
texts = st.binary(max_size=40)


@functools.cache
def endless() -> bytes:
    return zlib.compress(bytes(ENDLESS), 9)


@functools.cache
def profiles() -> tuple[bytes, ...]:
    """Colour profiles: sound, grey, cut, lying, empty, large."""
    rgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    return rgb, lab, rgb[:200], rgb[:16] + b"GRAY" + rgb[20:], rgb[:16] + b"CMYK" + rgb[20:], b"", bytes(5 * 2**20)


def blocks() -> st.SearchStrategy[bytes]:
    """EXIF."""
    lying = st.builds(exif, rarely(st.integers(0, 20), st.just(60_000)), count=st.sampled_from([1, 2**30]))
    orientation = st.integers(0, 9).map(
        lambda turned: b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, turned, 0)
    )
    ring = st.just(b"MM\0*" + struct.pack(">IHHHIII", 8, 1, 0x8769, 4, 1, 8, 8))  # a directory that holds itself
    return st.one_of(orientation, lying, ring, texts)


@st.composite
def damaged(draw: Draw, files: st.SearchStrategy[bytes]) -> bytes:
    """Files of which a few are cut, or have other bytes after the first twelve, which tell the format."""
    file = bytearray(draw(files))
    kind = draw(st.integers(0, 9))
    if kind == 9:
        del file[int(len(file) * draw(st.floats(0.1, 0.99))) :]
    elif kind == 8:
        for place in draw(st.lists(st.integers(0, 2**24), min_size=1, max_size=8)):
            file[12 + place % max(1, min(len(file) - 12, 4096))] = draw(st.integers(0, 255))
    return bytes(file)


# ---- PNG ------------------------------------------------------------------------------------------------------------


def extra_chunks() -> st.SearchStrategy[bytes]:
    profile = st.sampled_from(range(7)).map(lambda at: chunk(b"iCCP", b"p\0\0" + zlib.compress(profiles()[at])))
    ending = st.sampled_from([b"iCCPp\0\0", b"zTXta\0\0", b"iTXta\0\1\0\0\0", b"zTXtarpg\0\0", b"iTXtarpg\0\1\0\0\0"])
    bombs = ending.map(lambda start: chunk(start[:4], start[4:] + endless()))
    names = b"aaAa tEXt PLTE tRNS gAMA cHRM sRGB pHYs acTL fcTL fdAT IDAT IHDR IEND sBIT bKGD hIST tIME CgBI"
    kinds = st.sampled_from(names.split())
    lying = st.builds(chunk, kinds, texts, size=st.sampled_from([None, 0, 2**31 - 1, 2**32 - 1]), crc=st.just(0))
    sound = st.builds(chunk, kinds, texts)
    animation = st.integers(0, 3).map(lambda frames: chunk(b"acTL", struct.pack(">II", frames, 0)))
    many = st.builds(lambda kind, count: chunk(kind, b"a\0b" if kind == b"tEXt" else b"") * count, kinds, counts)
    recipe = st.sampled_from([b"{}", b"[" * 5000, b'{"version":1}', b"\xff"]).map(lambda text: b"arpg\0" + text)
    exifs = blocks().map(lambda block: chunk(b"eXIf", block))
    return rarely(
        st.one_of(sound, exifs, recipe.map(lambda text: chunk(b"tEXt", text)), animation),
        st.one_of(many, bombs, lying, profile),
        4,
    )


@st.composite
def pixels(draw: Draw, width: int, height: int, depth: int, colour: int) -> bytes:
    """IDAT chunks: of the right length, too short, too long, no zlib at all; in one piece or many."""
    right = min(height * (1 + (width * CHANNELS.get(colour, 1) * depth + 7) // 8), MOST_PIXELS)
    kind = draw(rarely(st.just("right"), st.sampled_from(["short", "long", "garbage", "endless"])))
    if kind == "garbage":
        return chunk(b"IDAT", draw(texts))
    if kind == "endless":
        return chunk(b"IDAT", endless())
    length = {"right": right, "short": right // 2, "long": right + 1000}[kind]
    start = draw(rarely(st.just(b"\1"), st.binary(max_size=64), 4))[:length]
    packed = zlib.compress(start + bytes(length - len(start)), draw(st.sampled_from([0, 9])) if right < 2**20 else 1)
    step = max(1, len(packed) // max(1, draw(counts)))
    return b"".join(chunk(b"IDAT", packed[at : at + step]) for at in range(0, len(packed), step))


@st.composite
def pngs(draw: Draw) -> bytes:
    width, height = draw(sides), draw(sides)
    colour = draw(rarely(st.sampled_from(list(CHANNELS)), st.integers(0, 255)))
    depth = draw(rarely(st.sampled_from([8, 16] if colour != 3 else [1, 2, 4, 8]), st.integers(0, 32)))
    before = draw(some(extra_chunks()))
    if colour == 3:
        before.append(chunk(b"PLTE", draw(st.binary(max_size=60)).ljust(3 * draw(st.integers(20, 256)), b"\0")))
    if draw(st.integers(0, 2)) == 2:
        before.append(chunk(b"tRNS", draw(st.binary(max_size=8)).ljust(draw(st.sampled_from([0, 6])), b"\0")))
    after = draw(some(extra_chunks()))
    head = header(
        width, height, depth=depth, colour=colour, interlaced=draw(rarely(st.sampled_from([0, 1]), st.just(2)))
    )
    return png(head, *before, draw(pixels(width, height, depth, colour)), *after)


# ---- JPEG -----------------------------------------------------------------------------------------------------------

FRAMES = bytes([0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA])


@functools.cache
def jpeg(mode: str, progressive: bool, subsampling: int, width: int, height: int) -> bytes:
    picture = Image.new(mode, (width, height), 77 if mode == "L" else (77,) * len(mode))
    return saved(picture, "JPEG", quality=80, progressive=progressive, subsampling=subsampling)


def extra_segments() -> st.SearchStrategy[bytes]:
    exifs = blocks().map(lambda block: segment(0xE1, (b"Exif\0\0" + block)[: 2**16 - 3]))
    piece = st.builds(
        lambda at, of, number: segment(0xE2, b"ICC_PROFILE\0" + bytes([at, of]) + profiles()[number][: 2**15]),
        *(st.integers(0, 3), st.integers(0, 3), st.sampled_from(range(6))),
    )
    adobe = st.integers(0, 3).map(lambda turn: segment(0xEE, b"Adobe\0d\0\0\0\0" + bytes([turn])))
    phone = st.just(segment(0xE2, b"MPF\0II*\0" + struct.pack("<IHHHII", 8, 1, 0xB001, 4, 1, 70_000)))
    markers = st.sampled_from([*range(0xC0, 0xD0), *range(0xDB, 0xFF)])
    lying = st.builds(segment, markers, texts, size=st.sampled_from([None, 0, 5, 2**16 - 3]))
    many = st.builds(lambda marker, count: segment(marker, b"abc") * count, markers, counts)
    fill = counts.map(lambda count: b"\xff" * count)
    return rarely(st.one_of(exifs, piece, adobe, phone), st.one_of(lying, many, fill), 4)


@st.composite
def jpegs(draw: Draw) -> bytes:
    if draw(st.integers(0, 9)) == 9:
        file = progressive_jpeg(draw(st.sampled_from([8, 512, 4096])), draw(counts))
    else:
        mode = draw(st.sampled_from(["L", "RGB", "CMYK"]))
        width, height = draw(st.sampled_from([(1, 1), (17, 33), (64, 64)]))
        file = jpeg(mode, draw(st.booleans()), draw(st.sampled_from([0, 1, 2])), width, height)
    frame = next(at for at in range(len(file)) if file[at] == 0xFF and file[at + 1] in (0xC0, 0xC2))
    lie = bytearray(file)
    if draw(st.integers(0, 7)) == 7:  # another size, precision, kind of coding
        struct.pack_into(">HH", lie, frame + 5, draw(sides), draw(sides))
    if draw(st.integers(0, 9)) == 9:
        lie[frame + 1] = draw(st.sampled_from(FRAMES))
    if draw(st.integers(0, 9)) == 9:
        lie[frame + 4] = draw(st.integers(0, 16))
    extra = draw(some(extra_segments()))
    scan = file.find(b"\xff\xda")
    again = file[scan:-2] * draw(rarely(st.just(0), counts, 3)) if len(file) < 5000 else b""
    return (
        JPEG_START
        + b"".join(extra)
        + bytes(lie[2:-2])
        + again
        + draw(rarely(st.just(JPEG_END), st.sampled_from([b"", file])))
    )


# ---- WebP -----------------------------------------------------------------------------------------------------------


@functools.cache
def webp(mode: str, lossless: bool, frames: int) -> bytes:
    rng = np.random.default_rng(0)
    stills = [Image.fromarray(rng.integers(0, 256, (9, 12, len(mode)), dtype=np.uint8)) for _ in range(frames)]
    return saved(stills[0], "WEBP", lossless=lossless, save_all=frames > 1, append_images=stills[1:])


def extra_parts() -> st.SearchStrategy[bytes]:
    kinds = st.sampled_from([b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ", b"????"])
    lying = st.builds(part, kinds, texts, size=st.sampled_from([None, 0, 2**31, 2**32 - 1]))
    many = st.builds(lambda kind, count: part(kind, b"ab") * count, kinds, counts)
    profile = st.sampled_from(range(7)).map(lambda at: part(b"ICCP", profiles()[at]))
    exifs = blocks().map(lambda block: part(b"EXIF", block))
    return rarely(st.one_of(profile, exifs), st.one_of(lying, many), 3)


@st.composite
def webps(draw: Draw) -> bytes:
    file = webp(draw(st.sampled_from(["RGB", "RGBA"])), draw(st.booleans()), draw(st.sampled_from([1, 1, 1, 3])))
    parts = [part(kind, body) for kind, body in parts_of(file) if kind != b"VP8X"]
    if draw(st.booleans()):
        extent = b"".join(
            (draw(rarely(st.just(side), st.integers(1, 2**24))) - 1).to_bytes(3, "little") for side in (12, 9)
        )
        parts.insert(0, part(b"VP8X", bytes([draw(st.sampled_from([0, 0x10, 0x28, 255])), 0, 0, 0]) + extent))
    for extra in draw(some(extra_parts())):
        parts.insert(draw(st.integers(0, len(parts))), extra)
    return riff(*parts, size=draw(rarely(st.none(), st.sampled_from([0, 4, 100, 2**31, 2**32 - 1]))))


def uploads() -> st.SearchStrategy[bytes]:
    return damaged(st.one_of(pngs(), jpegs(), webps()))
