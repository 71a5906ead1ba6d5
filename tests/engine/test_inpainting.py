"""The mask says which pixels are redrawn, the mask snapped to cells which tokens."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.editing.masks import composite, fit, fixed_cells, fixed_tokens
from service.tasks.pictures.errors import Limits
from service.tasks.pictures.images import decode_image, encode
from service.tasks.pictures.masks import MaskMode
from tests.support.pictures import decode_mask

GRID, LIMITS = (4, 4), Limits(10**6, 10**4)

# EXIF orientation → how a picture that is upright is stored.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@dataclass(frozen=True)
class Case:
    """Files as a client sends them, and what they mean."""

    image_file: bytes
    mask_file: bytes
    mode: MaskMode
    image: np.ndarray  # uint8 (H, W, 3), upright: what stays outside the mask
    mask: np.ndarray  # bool (H, W), upright
    drawn: np.ndarray


def file_of(upright: np.ndarray, mode: str, format: str, orientation: int) -> bytes:
    picture = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    picture = picture.quantize(256) if mode == "P" else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    kinds: dict[str, dict[str, Any]] = {
        "PNG": {},
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True, "exact": True},
    }
    file = io.BytesIO()
    picture.save(file, format, exif=exif, **kinds[format])
    return file.getvalue()


@st.composite
def uploads(draw: st.DrawFn) -> Case:
    """A picture and a mask of one size, each with a format, a pixel mode and an orientation of its own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    orientation, mask_orientation = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    # A lossy mask is made of blocks that a JPEG keeps.
    mask_format = draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    block = 8 if mask_format == "JPEG" else 1
    height, width = draw(st.integers(1, 40 // block)) * block, draw(st.integers(2, 40 // block)) * block
    blocks = rng.random((height // block, width // block)) < draw(st.sampled_from([0.02, 0.3, 0.9]))
    blocks[0, 0], blocks[-1, -1] = True, False
    mask = np.kron(blocks, np.ones((block, block), dtype=bool))

    modes: list[MaskMode] = ["white", "black"] if mask_format == "JPEG" else ["white", "black", "alpha"]
    mode = draw(st.sampled_from(modes))
    # Soft: anything on the right side of the level at which masks are cut.
    chosen, other = rng.integers(128, 256, mask.shape), rng.integers(0, 128, mask.shape)
    if block > 1:
        chosen, other = np.full(mask.shape, 230), np.full(mask.shape, 20)
    bright = np.where(mask if mode == "white" else ~mask, chosen, other)
    sixteen = mask_format == "PNG" and draw(st.booleans())
    if mode == "alpha":
        grey = rng.integers(0, 256, (*mask.shape, 3))
        levels = np.dstack([grey, bright]).astype(np.uint8)
    else:
        levels = (bright * 257).astype(np.uint16) if sixteen else bright.astype(np.uint8)
    mask_file = file_of(levels, "L", mask_format, mask_orientation)

    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    kinds = [("RGB", "PNG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("RGB", "WEBP"), ("RGB", "JPEG")]
    kind, format = draw(st.sampled_from(kinds))
    if kind == "L":
        image = np.repeat(image[..., :1], 3, axis=2)
        image_file = file_of(image[..., 0], kind, format, orientation)
    elif kind == "RGBA":
        opaque = np.full((height, width, 1), 255, dtype=np.uint8)
        image_file = file_of(np.dstack([image, opaque]), kind, format, orientation)
    else:
        if kind == "P":  # 27 colours: a palette holds them all
            image = image // 86 * 86
        image_file = file_of(image, kind, format, orientation)
    if format == "JPEG":  # what the file shows is the picture, whatever it was made from
        shown = np.asarray(Image.open(io.BytesIO(image_file)).convert("RGB"))
        inverse = {6: 8, 8: 6}.get(orientation, orientation)
        image = STORED[inverse](shown)
    drawn = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Case(image_file, mask_file, mode, image, mask, drawn)


@given(uploads())
def test_from_files_to_a_file_the_mask_decides_pixels_and_the_snapped_mask_tokens(case: Case) -> None:
    image = decode_image(case.image_file, "image", LIMITS)
    mask = decode_mask(case.mask_file, "mask", case.mode, LIMITS)
    assert np.array_equal(mask, case.mask)

    redrawn = ~fixed_cells(mask, GRID)
    tokens = np.arange(16).reshape(GRID)
    assert fixed_tokens(tokens, ~redrawn) == {p: p for p in range(16) if not redrawn.flat[p]}

    painted = encode(composite(image, case.drawn, mask), "png")
    shown = decode_image(painted, "image", LIMITS)
    assert shown.shape == case.image.shape
    assert np.array_equal(shown[~case.mask], case.image[~case.mask])
    assert np.array_equal(shown[case.mask], fit(case.drawn, case.mask.shape)[case.mask])


@st.composite
def pictures(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An upload, its mask, and what was drawn at the model's size."""
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    upload = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = rng.random((height, width)) < draw(st.sampled_from([0.001, 0.1, 0.9]))
    return upload, mask, rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)


@given(pictures(), st.integers(0, 6))
def test_outside_the_mask_every_pixel_is_the_uploads(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], feather: int
) -> None:
    upload, mask, drawn = case
    out = composite(upload, drawn, mask, feather)
    assert np.array_equal(out[~mask], upload[~mask])
    if feather == 0:
        assert np.array_equal(out[mask], fit(drawn, upload.shape[:2])[mask])


@given(pictures(), st.integers(0, 6), st.booleans())
def test_a_composite_may_be_written_over_the_upload(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], feather: int, smooth: bool
) -> None:
    upload, mask, drawn = case
    before = upload.copy()
    expected = composite(upload, drawn, mask, feather, smooth=smooth)
    assert np.array_equal(upload, before)
    assert composite(upload, drawn, mask, feather, smooth=smooth, out=upload) is upload
    assert np.array_equal(upload, expected)


@given(pictures(), st.integers(1, 8), st.integers(1, 8))
def test_a_token_is_redrawn_exactly_if_a_masked_pixel_touches_its_cell(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], rows: int, cols: int
) -> None:
    _, mask, _ = case
    height, width = mask.shape
    snapped = ~fixed_cells(mask, (rows, cols))
    touched = np.zeros((rows, cols), dtype=bool)
    for y, x in zip(*np.nonzero(mask), strict=True):
        for r in range(y * rows // height, -(-(y + 1) * rows // height)):
            for c in range(x * cols // width, -(-(x + 1) * cols // width)):
                touched[r, c] = True
    assert np.array_equal(snapped, touched)


def test_a_feathered_border_goes_from_the_upload_to_the_drawing() -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[:, 16:] = True
    upload, drawn = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 200, np.uint8)
    line = composite(upload, drawn, mask, feather=5)[10, :, 0].astype(int)
    assert (line[:16] == 0).all()
    assert (np.diff(line) >= 0).all()
    assert 0 < line[18] < 200
    assert (line[22:] == 200).all()


@given(pictures(), st.integers(1, 20))
def test_feathering_undoes_no_part_of_the_mask(case: tuple[np.ndarray, np.ndarray, np.ndarray], feather: int) -> None:
    """However thin the mask, each of its pixels is blended by its depth."""
    _, mask, _ = case
    black, white = np.zeros((*mask.shape, 3), np.uint8), np.full((*mask.shape, 3), 255, np.uint8)
    out = composite(black, white, mask, feather)[..., 0]
    assert (out[mask] >= 255 // (feather + 1)).all()
    outside = np.argwhere(~mask)
    for pixel in np.argwhere(mask)[:20]:
        depth = np.abs(outside - pixel).sum(1).min() if len(outside) else np.inf
        assert abs(out[tuple(pixel)] - 255 * min(1, depth / (feather + 1))) <= 1


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    assert fit(image, (16, 24)) is image
    assert fit(image, (8, 12)).shape == (8, 12, 3)
