"""A walk over a file's parts refuses what is too complex, and hands on nothing that no pixel depends on."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from service.tasks.pictures.errors import ImageError, Limits
from service.tasks.pictures.images import decode_image, examine
from service.tasks.pictures.structure import Structure, StructureError, inspect
from service.tasks.pictures.structure.jpeg import MAX_SCANS
from service.tasks.pictures.structure.parts import MAX_PARTS, MAX_PROFILE
from tests.support.api import noise, png, saved
from tests.tasks.hostile import chunk, exif, jpeg_of_scans, png_of_chunks

LIMITS = Limits(max_pixels=2**24, max_side=8192)
JPEG = saved(Image.fromarray(noise(16, 24)), "JPEG")
WEBP = saved(Image.fromarray(noise(16, 24)), "WEBP")


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg_with(*segments: bytes) -> bytes:
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def webp_of_chunks(count: int) -> bytes:
    body = WEBP[12:] + b"none\0\0\0\0" * count
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def refused(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data, "image", LIMITS)
    return caught.value


PROFILE_CHUNK = chunk(b"iCCP", b"p\0\0" + bytes(MAX_PROFILE))
PROFILE_SEGMENT = segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000))


@pytest.mark.parametrize(
    ("data", "code", "told"),
    [
        (png_of_chunks(*[chunk(b"prVt", b"")] * MAX_PARTS), "too_complex", "more than 16,384 chunks"),
        (webp_of_chunks(MAX_PARTS), "too_complex", "more than 16,384 chunks"),
        (jpeg_of_scans(MAX_SCANS), "too_complex", "more than 100 scans"),
        (jpeg_with(*[segment(0xFE, b"")] * MAX_PARTS), "too_complex", "more than 16,384 segments"),
        (png_of_chunks(PROFILE_CHUNK), "profile_too_large", "convert the picture to sRGB"),
        (jpeg_with(*[PROFILE_SEGMENT] * 80), "profile_too_large", "convert the picture to sRGB"),
    ],
    ids=["chunks", "chunks of a WebP", "scans", "segments", "profile of a PNG", "profile of a JPEG"],
)
def test_what_is_too_complex_is_refused_with_cause_and_remedy(data: bytes, code: str, told: str) -> None:
    error = refused(data)
    assert (error.field, error.code) == ("image", code)
    assert error.status in (413, 422)
    assert told in error.message


def test_what_ordinary_encoders_write_is_taken() -> None:
    assert decode_image(png_of_chunks(*[chunk(b"prVt", b"")] * 9000), "image", LIMITS).shape == (8, 8, 3)
    assert decode_image(jpeg_of_scans(MAX_SCANS - 12), "image", LIMITS).shape == (64, 64, 3)
    progressive = saved(Image.fromarray(noise(64, 64)), "JPEG", progressive=True, quality=100)
    assert decode_image(progressive, "image", LIMITS).shape == (64, 64, 3)


@pytest.mark.parametrize("cut", [4, 12])
def test_a_png_without_its_end_chunk_is_whole(cut: int) -> None:
    assert np.array_equal(decode_image(png(noise(16, 24))[:-cut], "image", LIMITS), noise(16, 24))


@pytest.mark.parametrize("fill", [b"\xff", b"\xff\x00", b"\xff\xd0", b"\xff\xfe", b"\x00", b"\xff\xfe\x00\x02"])
def test_a_walk_takes_no_longer_than_a_short_look(fill: bytes) -> None:
    """Whatever 4 MB say, in whatever place. A step in Python for each byte would take seconds."""
    many = fill * (4 * 2**20 // len(fill))
    for data in (JPEG[:-2] + many, jpeg_with(many), png(noise(4, 4))[:33] + many):
        began = time.process_time()
        with contextlib.suppress(StructureError):
            inspect(data, "arpg")
        assert time.process_time() - began < 1


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", [None, 6])
def test_of_exif_the_orientation_alone_is_read(format: str, orientation: int | None) -> None:
    """Its 5,000 unreadable tags cost nothing and warn of nothing."""
    stored = Image.fromarray(noise(16, 24))
    data = saved(stored, format, exif=b"Exif\0\0" + exif(5000, orientation))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shape = decode_image(data, "image", LIMITS).shape
    assert shape == ((16, 24, 3) if orientation is None else (24, 16, 3))
    assert examine(data, "image", LIMITS).size == shape[:2]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_orientation_may_be_in_xmp(format: str) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    options: dict[str, Any] = {"xmp": xmp}
    if format == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options = {"pnginfo": info}
    assert decode_image(saved(Image.fromarray(noise(16, 24)), format, **options), "image", LIMITS).shape == (24, 16, 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_without_its_metadata_a_file_decodes_to_the_same_pixels(format: str, mode: str) -> None:
    if format == "JPEG" and mode in ("RGBA", "P"):
        return
    stored = Image.fromarray(noise(24, 40, channels=4)).convert(mode)
    plain = saved(stored, format)
    more = saved(stored, format, exif=b"Exif\0\0" + exif(3), comment=b"hello", xmp=b"<x/>")
    with Image.open(io.BytesIO(inspect(more, "arpg").file)) as kept, Image.open(io.BytesIO(plain)) as expected:
        assert np.array_equal(np.asarray(kept.convert("RGBA")), np.asarray(expected.convert("RGBA")))
        assert kept.info.keys() <= expected.info.keys() | {"comment"} - {"comment"}


def test_every_size_that_a_file_states_is_checked() -> None:
    """A frame may be larger than its canvas claims."""
    lossless = saved(Image.fromarray(noise(16, 16)), "WEBP", lossless=True)
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (7).to_bytes(3, "little") * 2
    body = b"WEBP" + canvas + lossless[12:]
    lying = b"RIFF" + struct.pack("<I", len(body)) + body
    assert inspect(lying, "arpg").sizes == ((8, 8), (16, 16))
    with pytest.raises(ImageError) as caught:
        examine(lying, "image", Limits(max_pixels=100, max_side=100))
    assert (caught.value.code, caught.value.status) == ("too_many_pixels", 413)


@settings(max_examples=60)
@given(
    data=st.binary(max_size=200),
    start=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP"]),
)
def test_garbage_has_no_structure(data: bytes, start: bytes) -> None:
    try:
        assert isinstance(inspect(start + data, "arpg"), Structure)
    except StructureError as error:
        assert error.message  # noqa: PT017
