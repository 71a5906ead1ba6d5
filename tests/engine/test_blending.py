"""Seamless compositing: smooth at the mask's border, unchanged outside the mask."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.editing import blending
from engine.editing.blending import membrane, seamless
from engine.editing.masks import composite

shapes = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(st.data(), shapes)
def test_what_is_not_masked_is_as_it_was_drawn(data: st.DataObject, shape: tuple[int, int]) -> None:
    mask = data.draw(arrays(bool, shape))
    original, drawn = (data.draw(arrays(np.uint8, (*shape, 3))) for _ in range(2))
    before = drawn.copy()
    result = seamless(original, drawn, mask, 8)
    assert np.array_equal(result[~mask], drawn[~mask])
    assert np.array_equal(drawn, before)


@given(st.data(), shapes, st.integers(0, 50), st.floats(0.2, 50))
def test_a_difference_in_brightness_is_mended_at_the_border_and_never_overdone(
    data: st.DataObject, shape: tuple[int, int], brighter: int, reach: float
) -> None:
    mask = data.draw(arrays(bool, shape))
    original = data.draw(arrays(np.uint8, (*shape, 3), elements=st.integers(30, 200)))
    result = seamless(original, original + np.uint8(brighter), mask, reach).astype(int) - original
    assert result.min() >= 0
    assert result.max() <= brighter
    if not mask.all():
        padded = np.pad(mask, 1, constant_values=True)
        touching = ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]) & mask
        assert (2 * result[touching] <= brighter + 1).all()


@pytest.mark.parametrize("size", [16, 61, 128])
def test_a_membrane_is_harmonic(size: int) -> None:
    """Against the exact solution: a plane stays a plane."""
    rows, cols = np.mgrid[:size, :size].astype(np.float32)
    plane = (0.5 * rows - 0.25 * cols)[..., None]
    free = np.zeros((size, size), dtype=bool)
    free[1:-1, 1:-1] = True
    found = membrane(np.where(free[..., None], 0, plane), free, reach=1e6)
    assert np.abs(found - plane).max() < 0.02 * np.ptp(plane)


@pytest.mark.parametrize("reach", [3, 8, 20])
def test_a_correction_fades_with_its_depth(reach: float) -> None:
    """Against the exact solution, far from the other borders: exp(-depth / reach). A few sweeps approximate it."""
    values = np.zeros((64, 160, 1), np.float32)
    values[:, 0] = 100
    free = np.ones((64, 160), dtype=bool)
    free[:, 0] = False
    found = membrane(values, free, reach)[:, :, 0]
    assert np.abs(found - 100 * np.exp(-np.arange(160) / reach)).max() < 7


def test_the_step_at_the_border_goes() -> None:
    """The left half is another exposure of the same ramp, more than 20 levels away where they meet."""
    ramp = np.broadcast_to(np.linspace(60, 160, 64)[None, :, None], (48, 64, 3))
    original = np.rint(ramp + np.linspace(0, 20, 48)[:, None, None]).astype(np.uint8)
    drawn = np.rint(0.7 * ramp + 10).astype(np.uint8)
    mask = np.zeros((48, 64), dtype=bool)
    mask[:, :32] = True

    def step(picture: np.ndarray) -> float:
        return float(np.abs(picture[:, 32].astype(int) - picture[:, 31].astype(int)).mean())

    hard = np.where(mask[..., None], drawn, original)
    soft = np.where(mask[..., None], seamless(original, drawn, mask, 8), original)
    assert step(hard) > 20
    assert step(soft) < step(original) + 0.1 * step(hard)


@given(st.data(), shapes, st.integers(0, 3))
def test_outside_the_mask_a_seamless_composite_is_the_original(
    data: st.DataObject, shape: tuple[int, int], feather: int
) -> None:
    mask = data.draw(arrays(bool, shape))
    original, drawn = (data.draw(arrays(np.uint8, (*shape, 3))) for _ in range(2))
    result = composite(original, drawn, mask, feather, smooth=True)
    assert np.array_equal(result[~mask], original[~mask])


def test_a_whole_picture_has_no_border_to_meet() -> None:
    drawn = np.full((8, 8, 3), 7, np.uint8)
    assert np.array_equal(seamless(np.zeros_like(drawn), drawn, np.ones((8, 8), bool), 8), drawn)


@pytest.mark.parametrize("shape", [(530, 131), (131, 1), (1, 600), (600, 517)])
def test_a_large_picture_is_mended_strip_by_strip_as_if_at_once(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    original, drawn = (rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for _ in range(2))
    mask = np.zeros(shape, dtype=bool)
    mask[shape[0] // 3 :, shape[1] // 5 :] = rng.random((shape[0] - shape[0] // 3, shape[1] - shape[1] // 5)) < 0.999
    in_strips = seamless(original, drawn, mask, 8)
    monkeypatch.setattr(blending, "STRIP", 2**20)
    assert np.array_equal(in_strips, seamless(original, drawn, mask, 8))


def test_mending_a_large_picture_needs_a_few_bytes_for_each_pixel() -> None:
    """As a whole it needs 120."""
    original, drawn = (np.full((900, 900, 3), level, dtype=np.uint8) for level in (90, 140))
    mask = np.zeros((900, 900), dtype=bool)
    mask[8:-8, 8:-8] = True
    tracemalloc.start()
    try:
        seamless(original, drawn, mask, 20)
        assert tracemalloc.get_traced_memory()[1] < 24 * mask.size
    finally:
        tracemalloc.stop()
