"""What a request is drawn on: the rules for its size, and the tokens that a variation keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from service.tasks.canvas import Canvas, expanded, redrawn

from engine.core.engine import Engine
from engine.editing.masks import kept
from engine.editing.outpainting import LARGEST
from engine.editing.windows import WindowedGeneration, windows_over
from engine.request import EMPTY, Request
from service.errors import Problem
from service.tasks.fields import ExpandRequest, VaryRequest
from service.tasks.inputs import request_of
from service.tasks.sampling import cost, resolve
from tests.support.api import CAPACITY, CARD
from tests.support.tiny import random_folder

METHODS = st.sampled_from(["extrapolate", "interpolate", "ntk", "windowed"])
POSITIONS = CARD.positions  # 4×4 tokens of 8×8 pixels


def expand(**fields: Any) -> Canvas:
    return expanded(ExpandRequest.model_validate(fields), CARD)


def refused(**fields: Any) -> tuple[str, str, str]:
    with pytest.raises(Problem) as caught:
        expand(**fields)
    [error] = caught.value.errors
    assert caught.value.status == 422
    return error.field, error.code, error.message


@given(width=st.integers(1, 200), height=st.integers(1, 200), method=METHODS)
def test_an_expansion_has_the_size_that_was_asked_for_or_names_the_side_at_fault(
    width: int, height: int, method: str
) -> None:
    whole = width % 8 == 0 and height % 8 == 0
    fits = whole and min(width, height) >= 32 and width * height // 64 <= LARGEST * POSITIONS
    if not fits:
        side, code, message = refused(width=width, height=height, method=method)
        pixels = {"width": width, "height": height}[side]
        if code == "not_whole_tokens":
            near = [int(word) for word in message.partition("nearest")[2].split() if word.isdigit()]
            assert near
            assert all(n % 8 == 0 and n >= 32 and (abs(n - pixels) < 8 or n == 32) for n in near)
        else:
            assert (pixels < 32) == (code == "too_small")
        return
    canvas = expand(width=width, height=height, method=method)
    assert (canvas.size, canvas.grid) == ((height, width), (height // 8, width // 8))
    assert canvas.unknown.all()
    assert canvas.windowed == (method == "windowed")
    assert canvas.extension == (None if method == "windowed" else method)


@given(tokens=st.integers(4, 16))
def test_the_side_that_is_too_large_is_told_how_large_it_may_be(tokens: int) -> None:
    """With the other side as it is; and that size is taken."""
    side, code, message = refused(width=800, height=8 * tokens, method="ntk")
    assert (side, code) == ("width", "too_large")
    most = int(message.split()[-2])
    assert most >= 32
    assert expand(width=most, height=8 * tokens).grid == (tokens, most // 8)
    assert refused(width=most + 8, height=8 * tokens)[1] == "too_large"


@given(share=st.floats(0, 1, exclude_min=True, exclude_max=True), seed=st.integers(0, 2**32 - 1))
def test_a_variation_keeps_its_share_never_all_and_never_none(share: float, seed: int) -> None:
    keep = kept(seed, share, (8, 8))
    assert 1 <= keep.sum() <= 63
    assert abs(keep.sum() - share * 64) <= 1
    assert np.array_equal(keep, kept(seed, share, (8, 8)))
    assert not (keep & ~kept(seed, min(share + 0.2, 0.999), (8, 8))).any(), "a larger share keeps the same and more"


def test_which_tokens_a_variation_keeps_follows_from_the_seed() -> None:
    masks = {kept(seed, 0.5, (8, 8)).tobytes() for seed in range(50)}
    assert len(masks) == 50


@pytest.mark.parametrize("grid", [(3, 8), (8, 3), (9, 9)])
def test_tokens_on_a_grid_that_the_model_has_no_windows_for_are_refused(grid: tuple[int, int]) -> None:
    with pytest.raises(Problem) as caught:
        redrawn(np.ones(grid, dtype=bool), (32, 32), CARD)
    assert [error.field for error in caught.value.errors] == ["source"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder: Path = random_folder(tmp_path_factory.mktemp("model"), grid=(4, 4))
    return Engine.load(folder, device="cpu")


@given(
    rows=st.integers(4, 8), cols=st.integers(4, 8), steps=st.integers(1, 64), method=METHODS, n=st.integers(1, 16),
    guidance=st.sampled_from([1.0, 4.0]),
)  # fmt: skip
def test_a_larger_grid_weighs_at_least_what_the_engine_reserves_for_it(
    engine: Engine, rows: int, cols: int, steps: int, method: str, n: int, guidance: float
) -> None:
    """For the whole grid where it is drawn at once, for a window where it is drawn so."""
    card = engine.model
    asked = {"class": 1, "n": n, "steps": steps, "guidance_scale": guidance, "method": method}
    fields = ExpandRequest.model_validate(asked | {"width": cols * card.stride, "height": rows * card.stride})
    canvas = expanded(fields, card)
    payload = resolve(fields, card, "expand", canvas)
    weighs = cost(payload, card, {"page_size": engine.config.page_size, "cache_tokens": engine.tokens_total})
    size = card.grid if canvas.windowed else canvas.grid
    windows = windows_over(~canvas.unknown, size)
    tokens = np.full(canvas.grid, EMPTY, dtype=np.int32)
    generation = WindowedGeneration(request_of(payload, 0, {}), tokens, windows, size)
    assert n * max(engine.cost(request) for request in drawn_blindly(generation)) <= weighs
    page, branches = engine.config.page_size, 1 if guidance == 1 else 2
    assert weighs == n * branches * -(-size[0] * size[1] // page) * page


def drawn_blindly(generation: WindowedGeneration) -> Iterator[Request]:
    """Its requests, as if every token were a 0."""
    while (request := generation.next_request()) is not None:
        yield request
        if (window := request.window) is not None:
            generation.tokens[window.row : window.row + 4, window.col : window.col + 4] = 0


def test_a_picture_that_never_fits_is_refused_by_the_field_that_made_it_so() -> None:
    small = CAPACITY | {"cache_tokens": 64}
    fields = ExpandRequest.model_validate({"class": 1, "width": 64, "height": 64})
    payload = resolve(fields, CARD, "expand", expanded(fields, CARD))
    with pytest.raises(Problem) as caught:
        cost(payload, CARD, small)
    assert [(error.field, error.code) for error in caught.value.errors] == [("width", "never_fits")]
    windowed = fields.model_copy(update={"method": "windowed"})
    assert cost(resolve(windowed, CARD, "expand", expanded(windowed, CARD)), CARD, small) == 32


def test_keep_and_its_seed_are_told_as_they_were_resolved() -> None:
    fields = VaryRequest.model_validate({"keep": 0.3, "seed": 7, "image": "x"})
    canvas = redrawn(~kept(7, 0.3, CARD.grid), (32, 32), CARD)
    payload = resolve(fields, dataclasses.replace(CARD, tasks=("vary",)), "vary", canvas)
    assert (payload["keep"], payload["seed"], payload["windowed"]) == (0.3, 7, False)
    assert payload["image"] is None, "pictures are named when they are stored"


@pytest.mark.parametrize(
    ("width", "height", "method"),
    [
        (48, 48, "interpolate"),
        (40, 32, "interpolate"),
        (56, 32, "interpolate"),
        (64, 32, "windowed"),
        (32, 128, "windowed"),
    ],
)
def test_without_a_method_the_shape_decides(width: int, height: int, method: str) -> None:
    fields = ExpandRequest.model_validate({"width": width, "height": height})
    canvas = expanded(fields, CARD)
    assert (canvas.windowed, canvas.extension) == (method == "windowed", None if method == "windowed" else method)
    assert resolve(fields, CARD, "expand", canvas)["method"] == method
