"""The user's mask decides the pixels, the mask snapped to tokens decides the tokens."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.inpainting import composite, fit, token_mask


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


@given(pictures(), st.integers(1, 8), st.integers(1, 8))
def test_a_token_is_redrawn_exactly_if_a_masked_pixel_touches_its_cell(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], rows: int, cols: int
) -> None:
    _, mask, _ = case
    height, width = mask.shape
    snapped = token_mask(mask, (rows, cols))
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
