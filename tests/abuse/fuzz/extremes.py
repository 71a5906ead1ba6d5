"""The uploads that cost most: as many pixels as are taken, in every coding."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageCms

from tests.abuse.builders import chunk, header, png, progressive_jpeg, saved

SIDE = 4096
LEVELS = 5
"""Of noise in files without loss. With more, they are too large to be sent."""

SCANS = 98
"""Of the 100 that are taken."""


def extremes() -> Iterator[tuple[str, bytes]]:
    """Names and files, each small enough for the body of a request."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    picture, tall = Image.fromarray(noise), Image.fromarray(noise.reshape(2 * SIDE, SIDE // 2, 3))
    coarse = Image.fromarray(noise % LEVELS)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 0)
    yield "JPEG of empty scans", progressive_jpeg(SIDE, SCANS)
    yield "progressive JPEG", saved(picture, "JPEG", quality=50, progressive=True)
    yield "JPEG with a profile", saved(picture, "JPEG", quality=50, icc_profile=profile)
    yield "CMYK JPEG", saved(picture.convert("CMYK"), "JPEG", quality=50)
    yield "turned JPEG", saved(tall, "JPEG", quality=50, exif=turned)
    yield "WebP", saved(picture, "WEBP", quality=50, method=0)
    yield "lossless WebP with alpha", saved(coarse.convert("RGBA"), "WEBP", lossless=True, quality=0, method=0)
    yield "PNG", saved(coarse, "PNG", compress_level=1)
    yield "palette", saved(coarse.quantize(256, Image.Quantize.FASTOCTREE), "PNG", compress_level=1)
    for name, colour, channels, interlaced in (
        ("16-bit RGBA", 6, 4, 0),
        ("16-bit RGBA, interlaced", 6, 4, 1),
        ("16-bit grey", 0, 1, 0),
        ("16-bit grey and alpha", 4, 2, 0),
    ):
        rows = zlib.compress(bytes(SIDE * (1 + 2 * channels * SIDE) + interlaced * SIDE * 8), 1)
        head = header(SIDE, SIDE, depth=16, colour=colour, interlaced=interlaced)
        yield name, png(head, chunk(b"IDAT", rows))
