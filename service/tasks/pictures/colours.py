"""Colour profiles (ICC). The model draws in sRGB. A picture keeps its own colours: the drawn part is converted to them.

CMYK and grey have no place in an RGB answer, so pictures with such profiles are converted to sRGB once.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from service.tasks.pictures.images import bands

_MODES = {"GRAY": ("L", "LA"), "CMYK": ("CMYK",)}
_BROKEN = (ImageCms.PyCMSError, OSError, ValueError)
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION


def profile_of(image: Image.Image) -> bytes | None:
    """The RGB profile of a picture, if colours can be converted to it and back. A broken profile counts as none, as in
    browsers."""
    profile = image.info.get("icc_profile")
    if not profile or _space(profile) != "RGB":
        return None
    try:
        for pixels in (to_srgb, from_srgb):
            pixels(np.zeros((1, 1, 3), dtype=np.uint8), profile)
    except _BROKEN:
        return None
    return bytes(profile)


def to_srgb(pixels: np.ndarray, profile: bytes | None) -> np.ndarray:
    """Pixels uint8 (H, W, 3) of a profile's colours; None: they are in sRGB already."""
    if profile is None:
        return pixels
    return _converted(pixels, _opened(profile), _srgb())


def from_srgb(pixels: np.ndarray, profile: bytes | None) -> np.ndarray:
    """The inverse of to_srgb."""
    if profile is None:
        return pixels
    return _converted(pixels, _srgb(), _opened(profile))


def without_foreign_profile(image: Image.Image) -> Image.Image:
    """A CMYK or grey picture with a profile, in sRGB; any other as it is."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in _MODES.get(_space(profile), ()):
        return image
    try:
        # LCMS takes grey without its alpha, which is put back.
        source = "L" if image.mode == "LA" else image.mode
        transform = ImageCms.buildTransform(_opened(profile), _srgb(), source, "RGB", _INTENT, _FLAGS)
        result = Image.new("RGBA" if image.mode == "LA" else "RGB", image.size)
        for top, band in bands(image):
            made = ImageCms.applyTransform(band.convert(source), transform)
            assert made is not None
            if image.mode == "LA":
                made.putalpha(band.getchannel("A"))
            result.paste(made, (0, top))
    except _BROKEN:
        return image
    return result


def _converted(pixels: np.ndarray, source: ImageCms.ImageCmsProfile, target: ImageCms.ImageCmsProfile) -> np.ndarray:
    transform = ImageCms.buildTransform(source, target, "RGB", "RGB", _INTENT, _FLAGS)
    made = ImageCms.applyTransform(Image.fromarray(pixels), transform)
    assert made is not None
    return np.asarray(made)


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _space(profile: bytes) -> str:
    """The colour space, from the profile's header: `RGB`, `GRAY`, `CMYK` …"""
    return profile[16:20].decode("latin-1").strip()
