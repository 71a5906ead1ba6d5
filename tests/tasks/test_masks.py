"""Masks of every habit select what they show; one that selects nothing, or all, says why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.tasks.pictures.errors import ImageError, Limits
from service.tasks.pictures.images import decode_image, encode
from service.tasks.pictures.masks import MaskMode
from service.tasks.pictures.reading import Reading, Upload, read_upload
from tests.support.api import half_mask, noise, png, saved
from tests.support.pictures import decode_mask
from tests.tasks.hostile import png_of_chunks

LIMITS = Limits(max_pixels=4096, max_side=256)
sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))


def read(mask: bytes, mode: MaskMode = "white", *, size: tuple[int, int] = (16, 16)) -> Reading:
    upload = Upload(image=png(noise(*size)), mask=mask, mask_mode=mode, grid=(4, 4), limits=LIMITS)
    return read_upload(upload)


def refused(mask: bytes, mode: MaskMode = "white", *, size: tuple[int, int] = (16, 16)) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read(mask, mode, size=size)
    assert caught.value.field == "mask"
    return caught.value


@given(size=sizes, seed=st.integers(0, 99))
def test_mask_habits_agree(size: tuple[int, int], seed: int) -> None:
    repaint = np.random.default_rng(seed).random(size) < 0.5
    grey = np.where(repaint, 255, 0).astype(np.uint8)
    alpha = np.dstack([noise(*size, seed=seed), 255 - grey])
    masks: dict[MaskMode, bytes] = {"white": png(grey), "black": png(255 - grey), "alpha": png(alpha)}
    for mode, data in masks.items():
        assert np.array_equal(decode_mask(data, "mask", mode, LIMITS), repaint)
    assert np.array_equal(decode_mask(encode(repaint, "png"), "mask", "white", LIMITS), repaint)


def test_soft_masks_are_cut_at_the_stated_level() -> None:
    ramp = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    assert decode_mask(png(ramp), "mask", "white", LIMITS).tolist() == [[False, False, True, True]]
    assert decode_mask(png(ramp), "mask", "black", LIMITS).tolist() == [[True, True, False, False]]
    clear = np.dstack([ramp, ramp])  # grey and alpha
    assert decode_mask(saved(Image.fromarray(clear, "LA"), "PNG"), "mask", "alpha", LIMITS).tolist() == [
        [True, True, False, False]
    ]


def test_what_is_transparent_is_never_chosen_by_its_colour() -> None:
    """A brush's strokes on a transparent canvas, white or black, as drawing programs export them."""
    alpha = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    brushes: tuple[tuple[MaskMode, int, int], ...] = (("white", 255, 0), ("black", 0, 255))
    for mode, brush, other in brushes:
        strokes = np.dstack([np.full_like(alpha, brush)] * 3 + [alpha])
        assert decode_mask(png(strokes), "mask", mode, LIMITS).tolist() == [[False, False, True, True]]
        elsewhere = np.dstack([np.full_like(alpha, other)] * 3 + [alpha])
        assert not decode_mask(png(elsewhere), "mask", mode, LIMITS).any()


def test_sixteen_bits_of_grey_may_have_a_level_that_is_transparent() -> None:
    grey = Image.fromarray(np.array([[300, 301, 65535, 0]], dtype=np.uint16))
    data = saved(grey, "PNG", transparency=300)
    assert decode_image(data, "image", LIMITS)[0, :, 0].tolist() == [255, 1, 255, 0]
    assert decode_mask(data, "mask", "alpha", LIMITS).tolist() == [[True, False, False, False]]
    assert decode_mask(data, "mask", "white", LIMITS).tolist() == [[False, False, True, False]]
    assert decode_mask(data, "mask", "black", LIMITS).tolist() == [[False, True, False, True]]
    with pytest.raises(ImageError, match="no transparency"):
        decode_mask(saved(grey, "PNG"), "mask", "alpha", LIMITS)


@pytest.mark.parametrize(
    ("level", "mode", "code", "told"),
    [
        (0, "white", "empty_mask", "its highest value is 0 of 255: the upper half of the range is white"),
        (1, "white", "empty_mask", "its highest value is 1 of 255: the upper half of the range is white, which is "),
        (100, "white", "empty_mask", "its highest value is 100 of 255"),
        (1, "white", "empty_mask", "for a mask of 0 and 1 use mask_mode=nonzero"),
        (200, "white", "full_mask", "to draw a new one, use /v1/generate (its lowest value is 200 of 255"),
        (200, "black", "empty_mask", "its lowest value is 200 of 255: with mask_mode=black the lower half"),
        (1, "black", "full_mask", "its highest value is 1 of 255"),
        (0, "nonzero", "empty_mask", "its highest value is 0 of 255: with mask_mode=nonzero all values above 0"),
        (3, "nonzero", "full_mask", "its lowest value is 3 of 255"),
    ],
)
def test_a_mask_that_selects_nothing_or_all_tells_its_values(level: int, mode: MaskMode, code: str, told: str) -> None:
    error = refused(png(np.full((16, 16), level, dtype=np.uint8)), mode)
    assert error.code == code
    assert told in error.message


def test_a_mask_of_sixteen_bits_is_told_of_in_its_own_range() -> None:
    ones = saved(Image.fromarray(np.eye(16, dtype=np.uint16)), "PNG")
    assert "its highest value is 1 of 65535" in refused(ones).message
    assert np.array_equal(decode_mask(ones, "mask", "nonzero", LIMITS), np.eye(16) > 0)


@given(size=sizes, seed=st.integers(0, 99), mode=st.sampled_from(["L", "P", "RGB", "RGBA", "I;16", "1"]))
def test_all_but_zero_is_redrawn_with_nonzero(size: tuple[int, int], seed: int, mode: str) -> None:
    """Masks of classes or of 0 and 1, in whatever mode a tool saves them; what is transparent is not selected."""
    values = np.random.default_rng(seed).integers(0, 3, size).astype(np.uint8)
    picture = Image.fromarray(values.astype(np.uint16) if mode == "I;16" else values)
    if mode == "P":
        picture.putpalette([0, 0, 0, 1, 0, 0, 0, 0, 200])
    elif mode == "1":
        picture = Image.fromarray(values > 0)
    elif mode != "I;16":
        picture = picture.convert(mode)
    selected = decode_mask(saved(picture, "PNG"), "mask", "nonzero", LIMITS)
    assert np.array_equal(selected, values > 0)
    clear = np.dstack([np.full((*size, 3), 255, dtype=np.uint8), np.where(values > 0, 255, 0).astype(np.uint8)])
    assert np.array_equal(decode_mask(png(clear), "mask", "nonzero", LIMITS), values > 0)


@pytest.mark.parametrize(
    ("picture", "mask"), [((16, 16), (8, 8)), ((20, 31), (40, 62)), ((24, 36), (40, 60)), ((40, 27), (20, 13))]
)
def test_a_mask_of_the_same_shape_is_resized(picture: tuple[int, int], mask: tuple[int, int]) -> None:
    """Also where a side was rounded to whole pixels."""
    reading = read(png(half_mask(*mask)), size=picture)
    selected = decode_mask(reading.blobs["mask"], "mask", "white", LIMITS)
    assert selected.shape == picture
    left, right = picture[1] // 2 - 1, picture[1] // 2 + 1
    assert selected[:, :left].all()
    assert not selected[:, right:].any()
    assert reading.fixed_cells is not None
    assert reading.fixed_cells.shape == (4, 4)


@pytest.mark.parametrize("field", ["image", "mask"])
def test_a_picture_without_pixels_is_refused_by_field(field: str) -> None:
    """Found by the fuzz: the shapes of picture and mask are compared by division."""
    empty = png_of_chunks(side=0)
    image, mask = (empty if field == name else png(noise(16, 16)) for name in ("image", "mask"))
    with pytest.raises(ImageError, match="has no pixels") as caught:
        read_upload(Upload(image=image, mask=mask, mask_mode="white", grid=(4, 4), limits=LIMITS))
    assert (caught.value.field, caught.value.code) == (field, "damaged")


@pytest.mark.parametrize("mask", [(16, 15), (8, 7), (32, 16), (1, 16)])
def test_a_mask_of_another_shape_is_refused_before_the_picture_is_decoded(mask: tuple[int, int]) -> None:
    error = refused(png(half_mask(*mask)))
    assert (error.code, error.status) == ("shape", 422)
    assert f"the mask has {mask[1]}×{mask[0]} pixels, the picture 16×16" in error.message
    begun: list[str] = []
    upload = Upload(image=png(noise(16, 16)), mask=png(half_mask(*mask)), mask_mode="white", grid=(4, 4), limits=LIMITS)
    with pytest.raises(ImageError):
        read_upload(upload, begun.append)
    assert begun == []


@pytest.mark.parametrize(("level", "code"), [(255, "full_mask"), (0, "empty_mask")])
def test_a_single_pixel_leaves_nothing_to_keep_or_to_draw(level: int, code: str) -> None:
    assert refused(png(np.array([[level]], dtype=np.uint8)), size=(1, 1)).code == code


def test_alpha_needs_transparency() -> None:
    assert refused(png(noise(16, 16)), "alpha").code == "no_alpha"
