"""Uploads become upright RGB arrays and boolean masks, or a clear error; never anything else."""

from __future__ import annotations

import base64
import contextlib
import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.tasks.pictures.errors import ImageError, Limits
from service.tasks.pictures.images import decode_image, encode, from_base64, transcode
from tests.support.api import noise, png, saved

LIMITS = Limits(max_pixels=4096, max_side=256)
sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))


def refused(data: bytes, *, limits: Limits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(data, "image", limits)
    assert caught.value.field == "image"
    return caught.value


@given(size=sizes, seed=st.integers(0, 99))
def test_a_lossless_upload_comes_through_to_the_bit(size: tuple[int, int], seed: int) -> None:
    image = noise(*size, seed=seed)
    assert np.array_equal(decode_image(png(image), "image", LIMITS), image)
    assert np.array_equal(decode_image(saved(Image.fromarray(image), "WEBP", lossless=True), "image", LIMITS), image)


@given(size=sizes, mode=st.sampled_from(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "CMYK", "YCbCr"]))
def test_every_mode_becomes_rgb(size: tuple[int, int], mode: str) -> None:
    picture = Image.fromarray(noise(*size)).convert("RGB")
    if mode == "I;16":
        picture = Image.fromarray(noise(*size, channels=1).astype(np.uint16) * 257)
    elif mode != "PA":
        picture = picture.convert(mode)
    else:
        picture = picture.convert("RGBA").quantize(16)
    data = saved(picture, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG")
    image = decode_image(data, "image", LIMITS)
    assert (image.shape, image.dtype) == ((*size, 3), np.uint8)


@given(grey=st.lists(st.integers(0, 65535), min_size=1, max_size=32))
def test_sixteen_bits_are_scaled_not_clipped(grey: list[int]) -> None:
    data = saved(Image.fromarray(np.array([grey], dtype=np.uint16)), "PNG")
    expected = np.rint(np.array(grey) / 257).astype(np.uint8)
    assert np.array_equal(decode_image(data, "image", LIMITS)[0, :, 0], expected)


def test_transparent_parts_are_laid_on_white() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 3] = [0, 128, 255]
    assert decode_image(png(rgba), "image", LIMITS)[0, :, 0].tolist() == [255, 127, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_pictures_are_turned_upright(orientation: int, format: str) -> None:
    # Bright in one corner, so that every orientation differs; large blocks survive JPEG.
    stored = np.zeros((32, 48, 3), dtype=np.uint8)
    stored[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decode_image(saved(Image.fromarray(stored), format, exif=exif), "image", LIMITS) > 127
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    assert upright.shape[:2] == ((32, 48) if orientation < 5 else (48, 32))
    rows, cols = upright.shape[:2]
    assert upright[corner[0] * (rows - 1), corner[1] * (cols - 1)].all()
    assert upright[(1 - corner[0]) * (rows - 1)].sum() == 0


@settings(max_examples=80)
@given(data=st.binary(max_size=200), start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF"]))
def test_garbage_is_an_error_not_a_crash(data: bytes, start: bytes) -> None:
    refused(start + data)


@settings(max_examples=80)
@given(format=st.sampled_from(["PNG", "JPEG", "WEBP"]), cut=st.floats(0, 0.98), flips=st.integers(0, 10**6))
def test_truncated_and_damaged_files_are_an_error_or_a_picture(format: str, cut: float, flips: int) -> None:
    data = bytearray(saved(Image.fromarray(noise(24, 24)), format))
    refused(bytes(data[: int(len(data) * cut)]))
    data[flips % len(data)] ^= 0xFF
    with contextlib.suppress(ImageError):
        assert decode_image(bytes(data), "image", LIMITS).dtype == np.uint8


# Pillow itself refuses the first and only warns of the others.
@pytest.mark.parametrize("side", [60_000, 20_000, 13_000, 9_500])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_lying_header_is_refused_before_a_pixel_is_decoded(side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    assert refused(bomb).code == "too_many_pixels"
    assert refused(bomb, limits=Limits(80_000_000, 100_000)).code == "too_many_pixels"


def test_the_warnings_of_the_process_stay_as_they_are() -> None:
    script = "import sys, warnings, PIL.Image as _, numpy as _; before = warnings.filters[:]; "
    script += "import service.tasks.pictures.images; sys.exit(warnings.filters != before)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_pixel_ceiling_is_ours_and_exact() -> None:
    assert decode_image(png(noise(16, 256)), "image", LIMITS).shape == (16, 256, 3)
    assert refused(png(noise(17, 256))).status == 413
    assert refused(png(noise(1, 257))).code == "too_many_pixels"


def test_a_text_bomb_is_never_unpacked() -> None:
    from PIL.PngImagePlugin import PngInfo

    def with_bomb(keyword: str) -> bytes:
        info = PngInfo()
        info.add_text(keyword, "a" * (80 * 2**20), zip=True)
        return saved(Image.fromarray(noise(4, 4)), "PNG", pnginfo=info)

    assert np.array_equal(decode_image(with_bomb("comment"), "image", LIMITS), noise(4, 4))
    assert refused(with_bomb("arpg")).code == "damaged"


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations_are_refused(format: str) -> None:
    stills = [Image.fromarray(noise(8, 8, seed=i)) for i in range(3)]
    assert refused(saved(stills[0], format, save_all=True, append_images=stills[1:])).code == "animated"


def test_a_phones_jpeg_with_a_second_picture_gives_its_first() -> None:
    red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    data = saved(red, "MPO", save_all=True, append_images=[blue])
    assert decode_image(data, "image", LIMITS)[8, 8, 0] > 200


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "EPS", "ICO", "PDF"])
def test_other_formats_are_refused_whatever_they_are_called(format: str) -> None:
    assert refused(saved(Image.fromarray(noise(16, 16)), format)).code == "not_an_image"


def test_an_empty_file_says_so() -> None:
    assert refused(b"").code == "empty"


@given(data=st.binary(max_size=64), prefix=st.sampled_from(["", "data:image/png;base64,", "data:image/JPEG;base64,"]))
def test_base64_with_and_without_data_url_and_line_breaks(data: bytes, prefix: str) -> None:
    text = prefix + base64.encodebytes(data).decode()
    assert from_base64(text, "image") == data


@pytest.mark.parametrize(
    "text", ["***", "abc", "a=b=", "data:text/html;base64,AAAA", "data:image/png,AAAA", "é", "https://x"]
)
def test_bad_base64_is_named(text: str) -> None:
    with pytest.raises(ImageError) as caught:
        from_base64(text, "mask")
    assert caught.value.field == "mask"


def test_a_png_carries_text_and_the_others_do_not() -> None:
    image = noise(4, 4)
    for format in ("png", "jpeg", "webp"):
        with Image.open(io.BytesIO(encode(image, format, text={"arpg": "héllo"}))) as picture:
            assert picture.info.get("arpg") == ("héllo" if format == "png" else None)


@given(size=sizes, format=st.sampled_from(["png", "jpeg", "webp"]))
def test_what_is_written_is_what_was_asked_for(size: tuple[int, int], format: Any) -> None:
    image = noise(*size)
    data = transcode(png(image), format, 90)
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format or "").lower() == format
        assert picture.size == (size[1], size[0])
    if format == "png":
        assert np.array_equal(decode_image(data, "image", LIMITS), image)
