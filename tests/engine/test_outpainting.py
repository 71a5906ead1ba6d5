"""A picture of any size keeps its pixels on the canvas drawn around it; a canvas that is too large is rejected with the
side at fault."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from engine.editing.outpainting import LARGEST, SIDES, OutpaintGeometry, Padding, assemble, cells_of, outpaint_geometry
from engine.request import EMPTY, RequestError

GRID, STRIDE = (16, 16), 8

pixels = st.integers(1, 400)
amounts = st.one_of(st.just(0), st.integers(0, 300))
paddings = st.builds(Padding, left=amounts, right=amounts, up=amounts, down=amounts)


@st.composite
def small_extensions(draw: st.DrawFn, most: int = 60) -> OutpaintGeometry:
    """The geometry for a model of 4×4 tokens of 2×2 pixels."""
    height, width = draw(st.integers(1, most)), draw(st.integers(1, most))
    across, along = st.integers(0, max(1, width // 2)), st.integers(0, max(1, height // 2))
    asked = Padding(left=draw(across), right=draw(across), up=draw(along), down=draw(along))
    try:
        return outpaint_geometry((height, width), asked, grid=(4, 4), stride=2)
    except RequestError:
        assume(False)
        raise


def extended(picture: tuple[int, int], grid: tuple[int, int] = GRID, **asked: Any) -> OutpaintGeometry:
    return outpaint_geometry(picture, Padding(**asked), grid=grid, stride=STRIDE)


def refused(picture: tuple[int, int], **asked: Any) -> str:
    with pytest.raises(RequestError) as caught:
        extended(picture, **asked)
    return caught.value.field


@given(st.tuples(pixels, pixels), st.sampled_from([(16, 16), (8, 8), (6, 10)]))
def test_a_picture_has_the_models_side_in_tokens_and_keeps_its_shape(
    picture: tuple[int, int], grid: tuple[int, int]
) -> None:
    cells = cells_of(picture, grid)
    assert all(side <= count <= LARGEST * side for side, count in zip(grid, cells, strict=True))
    assert any(count == side for side, count in zip(grid, cells, strict=True))
    if all(count < LARGEST * side for side, count in zip(grid, cells, strict=True)):
        a_token = min(p / side for p, side in zip(picture, grid, strict=True))
        assert all(abs(p / a_token - count) <= 0.5 for p, count in zip(picture, cells, strict=True))


def test_shapes_that_have_names() -> None:
    assert cells_of((128, 128), GRID) == (16, 16)
    assert cells_of((100, 150), GRID) == (16, 24)
    assert cells_of((3000, 2000), GRID) == (24, 16)
    assert cells_of((1, 1), GRID) == (16, 16)
    assert cells_of((10, 1000), GRID) == (16, 64)  # no longer its shape


@given(st.tuples(pixels, pixels), paddings)
@example((126, 185), Padding(left=0, right=177, up=0, down=0))
def test_padding_is_snapped_up_to_whole_tokens_and_says_so(picture: tuple[int, int], asked: Padding) -> None:
    try:
        geometry = outpaint_geometry(picture, asked, grid=GRID, stride=STRIDE)
    except RequestError:
        return
    rows, cols = geometry.cells
    for side in SIDES:
        a_token = picture[0] / rows if side in ("up", "down") else picture[1] / cols
        tokens, effective = geometry.margin[side], geometry.padding[side]
        reach = tokens * a_token
        assert asked[side] <= effective <= reach * (1 + 1e-9)  # 23 tokens of 185/23 pixels are 185, but for rounding
        assert reach < asked[side] + a_token * (1 + 1e-9)
        assert (tokens == 0) == (asked[side] == 0)
        assert tokens * a_token - effective < 1
    m, p = geometry.margin, geometry.padding
    assert geometry.grid == (m.up + rows + m.down, m.left + cols + m.right)
    assert geometry.size == (p.up + picture[0] + p.down, p.left + picture[1] + p.right)


@given(st.tuples(pixels, pixels), paddings, st.sampled_from([(16, 16), (6, 10)]))
def test_a_canvas_is_drawn_or_refused_by_the_side_at_fault(
    picture: tuple[int, int], asked: Padding, grid: tuple[int, int]
) -> None:
    cells = cells_of(picture, grid)
    long = any(count > 2 * side for count, side in zip(cells, grid, strict=True))
    try:
        geometry = outpaint_geometry(picture, asked, grid=grid, stride=STRIDE)
    except RequestError as error:
        sides = [side for side in SIDES if asked[side]]
        strip = sides and any(count == LARGEST * side for count, side in zip(cells, grid, strict=True))
        assert error.field in ((["image"] if strip else []) + sides or ["left"])  # noqa: PT017
        return
    for count, fewer, canvas, side in zip(cells, geometry.cells, geometry.grid, grid, strict=True):
        assert side <= canvas <= LARGEST * side
        assert fewer == count or (long and fewer < count)
        assert fewer >= side / 2
    assert geometry.grid[0] * geometry.grid[1] <= LARGEST * grid[0] * grid[1]
    assert not geometry.fixed_cells.all()
    assert geometry.fixed_cells.sum() == geometry.cells[0] * geometry.cells[1]


@given(st.tuples(pixels, pixels), paddings)
@example((10, 80), Padding(left=300))
def test_the_side_that_is_too_large_is_told_how_much_fits(picture: tuple[int, int], asked: Padding) -> None:
    try:
        outpaint_geometry(picture, asked, grid=GRID, stride=STRIDE)
        return
    except RequestError as error:
        side, message = error.field, str(error)
    assume(side in SIDES and any(asked[each] for each in SIDES))
    found = re.search("up to ([0-9]+) pixels fit on this side", message)
    if found is None:
        assert "make the other sides smaller" in message or max(picture) > 1.9 * min(picture)
        return
    fitting: dict[str, Any] = {side: int(found[1])}
    assert fitting[side] < asked[side]  # type: ignore[index]
    outpaint_geometry(picture, replace(asked, **fitting), grid=GRID, stride=STRIDE)


def test_a_long_picture_gets_fewer_tokens_where_its_canvas_would_be_too_large() -> None:
    """At its own 16×64 tokens it would fill the largest canvas alone."""
    banner = (256, 1024)
    assert extended(banner, up=32).cells == (15, 60)
    square = extended(banner, up=384, down=384)
    assert (square.cells, square.grid, square.size) == ((8, 32), (32, 32), (1024, 1024))
    assert extended((1024, 256), left=384, right=384).cells == (32, 8)
    assert extended((256, 768), up=128, down=128).cells == (12, 36)
    assert extended((256, 768), up=32, down=32).cells == (16, 48)  # fits, and stays as it is
    assert extended((200, 1400), up=100, down=100).grid == (16, 56)


def test_a_strip_that_would_stay_one_is_refused_with_the_limit() -> None:
    limits = "may be 8 times as wide as high, and 4 times with its padding; pad up and down"
    for picture, right, up in (((256, 1024), 64, 0), ((256, 1200), 0, 5), ((100, 900), 0, 300)):
        with pytest.raises(RequestError, match=f"^image: .* {limits}"):
            extended(picture, right=right, up=up)
    assert refused((256, 1024), up=385, down=384) == "up"


def test_the_papers_canvas_fits_and_a_pixel_more_does_not() -> None:
    wide = extended((128, 128), left=192, right=192)
    assert (wide.grid, wide.size) == ((16, 64), (128, 512))
    assert extended((128, 128), left=128, up=128).grid == (32, 32)
    assert refused((128, 128), left=192, right=193) == "right"
    assert refused((128, 128), up=385) == "up"
    assert refused((128, 128), left=128, up=136) == "up"
    assert refused((128, 128), down=136, right=128) == "down"


def test_what_cannot_be_drawn_names_its_field() -> None:
    assert refused((128, 128)) == "left"
    assert refused((128, 128), right=10, up=-1) == "up"
    assert refused((10, 1000), up=1) == "image"
    assert refused((1, 1), down=10**12) == "down"


@given(small_extensions(), st.integers(0, 99))
def test_the_originals_pixels_are_kept_to_the_bit(geometry: OutpaintGeometry, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = geometry.picture
    original = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    drawn = rng.integers(0, 256, (geometry.grid[0] * 2, geometry.grid[1] * 2, 3), dtype=np.uint8)
    result = assemble(original, drawn, geometry)
    assert result.shape == (*geometry.size, 3)
    top, left = geometry.padding.up, geometry.padding.left
    assert np.array_equal(result[top : top + height, left : left + width], original)


def test_at_the_models_own_scale_the_drawn_pixels_are_kept_too() -> None:
    rng = np.random.default_rng(0)
    geometry = extended((128, 128), left=9, down=30)
    assert (geometry.padding.left, geometry.padding.down) == (16, 32)
    drawn = rng.integers(0, 256, (160, 144, 3), dtype=np.uint8)
    original = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    expected = drawn.copy()
    expected[:128, 16:] = original
    assert np.array_equal(assemble(original, drawn, geometry), expected)


def test_what_is_drawn_meets_the_original_and_leaves_it_alone() -> None:
    """Around a picture of another exposure the step at its border nearly disappears."""
    geometry = extended((128, 128), left=64, down=30)
    drawn = np.full((160, 192, 3), 100, np.uint8)
    original = np.full((128, 128, 3), 140, np.uint8)
    hard, smooth = (assemble(original, drawn, geometry, smooth=smooth).astype(int) for smooth in (False, True))
    assert np.array_equal(smooth[:128, 64:], original)
    for picture, step in ((hard, 40), (smooth, 4)):
        assert np.abs(picture[:128, 64] - picture[:128, 63]).max() <= step
        assert np.abs(picture[128, 64:] - picture[127, 64:]).max() <= step
    assert np.abs(smooth[150:, :8] - hard[150:, :8]).max() <= 1


@given(small_extensions(most=16), st.booleans())
def test_what_is_drawn_of_the_original_lies_beneath_it(geometry: OutpaintGeometry, upright: bool) -> None:
    """A slope drawn across the canvas has the right value wherever it is shown, measured from the original."""
    axis = 0 if upright else 1
    drawn_length = geometry.grid[axis] * 2
    slope = 255 / drawn_length  # a drawn pixel
    line = np.rint((np.arange(drawn_length) + 0.5) * slope).astype(np.uint8)
    drawn = np.broadcast_to(line[:, None] if upright else line[None], (geometry.grid[0] * 2, geometry.grid[1] * 2))
    original = np.zeros((*geometry.picture, 3), dtype=np.uint8)
    result = assemble(original, np.repeat(drawn[..., None], 3, axis=2), geometry)

    before = ("up", "left")[axis]
    a_pixel = geometry.fitted[axis] / geometry.picture[axis]  # of the result, in drawn ones
    centres = (np.arange(geometry.size[axis]) + 0.5 - geometry.padding[before]) * a_pixel  # type: ignore[index]
    expected = (centres + geometry.margin[before] * 2) * slope  # type: ignore[index]
    inside = (expected > 4 * slope) & (expected < 255 - 4 * slope)  # the filter bends the ends
    shown = (result[..., 0] if upright else result[..., 0].T)[inside].astype(float)
    outside = (_drawn_around(geometry) if upright else _drawn_around(geometry).T)[inside]
    assert np.abs(shown - expected[inside][:, None])[outside].max(initial=0) < max(2, slope * a_pixel / 4)


def _drawn_around(geometry: OutpaintGeometry) -> np.ndarray:
    """bool (size): where the result shows what was drawn."""
    shown = np.ones(geometry.size, dtype=bool)
    top, left = geometry.padding.up, geometry.padding.left
    shown[top : top + geometry.picture[0], left : left + geometry.picture[1]] = False
    return shown


def test_the_canvas_holds_the_originals_tokens_where_it_lies() -> None:
    geometry = extended((64, 96), left=4, up=20, down=1)
    assert (geometry.cells, geometry.fitted, geometry.grid) == ((16, 24), (128, 192), (22, 25))
    tokens = np.arange(16 * 24).reshape(16, 24)
    canvas = geometry.canvas(tokens)
    assert (canvas.shape, canvas.dtype) == ((22, 25), np.int32)
    assert np.array_equal(canvas != EMPTY, geometry.fixed_cells)
    assert np.array_equal(canvas[5:21, 1:], tokens)
