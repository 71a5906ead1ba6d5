"""A picture keeps its colour profile and its own pixels; the model sees sRGB."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from service.tasks.pictures import colours
from service.tasks.pictures.errors import Limits
from service.tasks.pictures.images import encode, transcode
from service.tasks.pictures.inputs import open_inputs
from service.tasks.pictures.reading import Reading, Upload, read_upload
from tests.support.api import half_mask, noise, png, saved

LIMITS = Limits(max_pixels=2**20, max_side=2**12)


def display_p3() -> bytes:
    """A minimal profile: Apple's Display P3 with a gamma of 2.2."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    def text(words: str) -> bytes:
        coded = words.encode("utf-16-be")
        return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(coded), 28) + coded

    tags = {
        b"desc": text("Display P3"),
        b"cprt": text("none"),
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249),
        b"rXYZ": b"XYZ \0\0\0\0" + fixed(0.51512, 0.2412, -0.00105),
        b"gXYZ": b"XYZ \0\0\0\0" + fixed(0.29198, 0.69225, 0.04189),
        b"bXYZ": b"XYZ \0\0\0\0" + fixed(0.1571, 0.06657, 0.78407),
        b"rTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)),
    }
    tags |= dict.fromkeys((b"gTRC", b"bTRC"), tags[b"rTRC"])
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x04000000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    head += bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


P3 = display_p3()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def read(image: bytes) -> Reading:
    return read_upload(Upload(image=image, mask=png(half_mask(16, 16)), mask_mode="white", grid=(4, 4), limits=LIMITS))


def profile_in(file: bytes) -> bytes | None:
    with Image.open(io.BytesIO(file)) as picture:
        profile: bytes | None = picture.info.get("icc_profile")
        return profile


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("profile", [P3, SRGB], ids=["P3", "sRGB"])
def test_pixels_and_profile_are_stored_as_they_came(format: str, profile: bytes) -> None:
    data = saved(Image.fromarray(noise(16, 16)), format, icc_profile=profile)
    inputs = open_inputs(dict(read(data).blobs))
    assert inputs.profile == profile
    assert inputs.image is not None
    assert np.array_equal(inputs.image, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_colours_go_to_srgb_and_back() -> None:
    """The red of Display P3 is beyond sRGB's; sRGB's red is a paler one in Display P3."""
    red = np.array([[[255, 0, 0]]], dtype=np.uint8)
    assert colours.to_srgb(red, P3)[0, 0].tolist() == [255, 0, 0]
    assert np.abs(colours.from_srgb(red, P3)[0, 0].astype(int) - [234, 51, 35]).max() <= 6
    inner = noise(32, 32) // 2 + 64
    back = colours.to_srgb(colours.from_srgb(inner, P3), P3)
    assert np.abs(back.astype(int) - inner).max() <= 3
    assert colours.to_srgb(inner, None) is inner


@pytest.mark.parametrize("profile", [b"none", P3[:200], P3.replace(b"rXYZ", b"xxxx"), P3.replace(b"acsp", b"xxxx")])
def test_a_broken_profile_counts_as_none(profile: bytes) -> None:
    reading = read(saved(Image.fromarray(noise(16, 16)), "PNG", icc_profile=profile))
    assert open_inputs(dict(reading.blobs)).profile is None


def test_a_grey_profile_is_applied_once_as_rgb_has_no_place_for_it() -> None:
    """Here with a gamma of 1.0."""
    curve, white = b"curv\0\0\0\0" + struct.pack(">I", 0), P3[P3.index(b"XYZ \0\0\0\0") :][:20]
    tags = {b"wtpt": white, b"kTRC": curve}
    table, body = b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 24 + len(body), len(data))
        body += data
    grey = P3[:128].replace(b"RGB ", b"GRAY") + struct.pack(">I", 2) + table + body
    grey = struct.pack(">I", len(grey)) + grey[4:]
    level = Image.new("L", (16, 16), 55)
    inputs = open_inputs(dict(read(saved(level, "PNG", icc_profile=grey)).blobs))
    assert inputs.profile is None
    assert inputs.image is not None
    assert abs(int(inputs.image[0, 0, 0]) - 128) <= 3, "linear 55 is sRGB's 128"


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_an_answer_in_another_format_has_the_profile(format: str) -> None:
    stored = encode(noise(16, 16), "png", profile=P3)
    assert profile_in(transcode(stored, format, 90)) == P3  # type: ignore[arg-type]
    assert profile_in(transcode(png(noise(16, 16)), format, 90)) is None  # type: ignore[arg-type]
