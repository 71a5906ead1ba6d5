"""Plans: the rules for sizes, methods and kept tokens, what a job costs, and what a fork takes over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.engine import Engine
from engine.editing.masks import fixed_cells, kept_cells
from engine.editing.outpainting import LARGEST
from engine.editing.windows import WindowedGeneration
from engine.request import Request
from service.errors import Problem
from service.jobs.spec import JobSpec, OutpaintCompose
from service.tasks import expand, fork, generate, inpaint, outpaint, vary
from service.tasks.drawing import generation, requests
from service.tasks.expand import ExpandRequest
from service.tasks.fork import ForkProgress, ForkRequest
from service.tasks.generate import GenerateRequest
from service.tasks.layout import around
from service.tasks.pictures.inputs import empty_canvas
from service.tasks.planning import cost
from service.tasks.task import PictureFacts
from tests.support.api import CAPACITY, CARD
from tests.support.tiny import random_folder

METHODS = st.sampled_from(["extrapolate", "interpolate", "ntk", "windowed"])
POSITIONS = CARD.positions  # 4×4 tokens of 8×8 pixels


def expansion(**fields: Any) -> JobSpec:
    return expand.plan(ExpandRequest.model_validate({"seed": 5} | fields), None, CARD)


def refused(**fields: Any) -> tuple[str, str, str]:
    with pytest.raises(Problem) as caught:
        expansion(**fields)
    [error] = caught.value.errors
    assert caught.value.status == 422
    return error.field, error.code, error.message


def test_a_task_has_its_own_defaults_and_the_request_has_the_last_word() -> None:
    card = replace(CARD, task_defaults={"expand": {"steps": 12, "top_p": 0.5}})
    fields = {"seed": 5, "width": 64, "height": 32}
    own = expand.plan(ExpandRequest.model_validate(fields), None, card).sampling
    assert (own.steps, own.top_p, own.guidance_scale) == (12, 0.5, 1.0)  # no class: nothing to guide
    given = expand.plan(ExpandRequest.model_validate(fields | {"top_p": 0.9, "class": "cone"}), None, card).sampling
    assert (given.steps, given.top_p, given.guidance_scale) == (12, 0.9, 3.0)
    other = generate.plan(GenerateRequest.model_validate({"seed": 5}), None, card).sampling
    assert (other.steps, other.top_p) == (8, 1.0)


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
    spec = expansion(width=width, height=height, method=method)
    assert (spec.size, spec.grid) == ((height, width), (height // 8, width // 8))
    assert not spec.fixed_cells.any()
    assert spec.window_shape == (CARD.grid if method == "windowed" else spec.grid)
    assert spec.rope_scaling == (None if method == "windowed" else method)


@given(tokens=st.integers(4, 16))
def test_the_side_that_is_too_large_is_told_how_large_it_may_be(tokens: int) -> None:
    """With the other side as it is; and that size is taken."""
    side, code, message = refused(width=800, height=8 * tokens, method="ntk")
    assert (side, code) == ("width", "too_large")
    most = int(message.split()[-2])
    assert most >= 32
    assert expansion(width=most, height=8 * tokens).grid == (tokens, most // 8)
    assert refused(width=most + 8, height=8 * tokens)[1] == "too_large"


def test_where_both_sides_are_too_large_a_size_that_fits_is_named() -> None:
    side, code, message = refused(width=4096, height=4096)
    assert (side, code) == ("height", "too_large")
    width, height = map(int, message.rpartition("such as ")[2].partition(" pixels")[0].split("×"))
    assert expansion(width=width, height=height).size == (height, width)


@given(share=st.floats(0, 1, exclude_min=True, exclude_max=True), seed=st.integers(0, 2**63 - 1))
def test_a_variation_keeps_its_share_never_all_and_never_none(share: float, seed: int) -> None:
    keep = kept_cells(seed, share, (8, 8))
    assert 1 <= keep.sum() <= 63
    assert abs(keep.sum() - share * 64) <= 1
    assert np.array_equal(keep, kept_cells(seed, share, (8, 8)))
    assert not (keep & ~kept_cells(seed, min(share + 0.2, 0.999), (8, 8))).any(), (
        "a larger share keeps the same and more"
    )


def test_which_tokens_a_variation_keeps_follows_from_the_seed() -> None:
    masks = {kept_cells(seed, 0.5, (8, 8)).tobytes() for seed in range(50)}
    assert len(masks) == 50


@pytest.mark.parametrize("grid", [(3, 8), (8, 3), (9, 9)])
def test_tokens_on_a_grid_that_the_model_has_no_windows_for_are_refused(grid: tuple[int, int]) -> None:
    with pytest.raises(Problem) as caught:
        around(np.zeros(grid, dtype=bool), (32, 32), CARD)
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
    asked = {"class": 1, "n": n, "seed": 5, "steps": steps, "guidance_scale": guidance, "method": method}
    size = {"width": cols * card.stride, "height": rows * card.stride}
    spec = expand.plan(ExpandRequest.model_validate(asked | size), None, card)
    weighs = cost(spec, card, {"page_size": engine.config.page_size, "cache_tokens": engine.tokens_total})
    drawn = generation(spec, empty_canvas(spec), requests(spec, card)[0])
    assert n * max(engine.cost(request) for request in drawn_blindly(drawn)) <= weighs
    page, branches = engine.config.page_size, 1 if guidance == 1 else 2
    assert weighs == n * branches * -(-spec.window_shape[0] * spec.window_shape[1] // page) * page


@given(rows=st.integers(1, 120), cells=st.integers(1, 16), room=st.integers(16, 2**10), guided=st.booleans())
def test_a_prompt_weighs_as_much_as_it_may_and_is_refused_only_if_none_fits(
    rows: int, cells: int, room: int, guided: bool
) -> None:
    """rows: how many the prompt turns out to have."""
    card = replace(CARD, grid=(1, cells), conditioning="text", condition_rows=120, classes=())
    asked = {"prompt": "x", "guidance_scale": 3.0 if guided else 1.0, "seed": 5, "n": 2}
    spec = generate.plan(GenerateRequest.model_validate(asked), None, card)
    needed, least = (-(-size // 16) * 16 * (1 + guided) for size in (rows + cells - 1, cells))
    if needed <= room:
        weighs = cost(spec, card, {"page_size": 16, "cache_tokens": room})
        assert 2 * needed <= weighs == 2 * -(-(cells + 119) // 16) * 16 * (1 + guided)
    if least > room:
        with pytest.raises(Problem, match=f"model: a picture needs {least} tokens of KV cache"):
            cost(spec, card, {"page_size": 16, "cache_tokens": room})


def test_without_a_prompt_a_picture_is_refused_if_its_unconditional_rows_do_not_fit() -> None:
    """How many these are, the card says."""
    card = replace(CARD, grid=(1, 16), conditioning="text", condition_rows=120, classes=())
    spec = generate.plan(GenerateRequest.model_validate({"seed": 5}), None, card)
    assert cost(spec, card, {"page_size": 16, "cache_tokens": 144}) == 144
    with pytest.raises(Problem, match="model: a picture needs 144 tokens of KV cache, and the largest worker has 128"):
        cost(spec, card, {"page_size": 16, "cache_tokens": 128})


def drawn_blindly(drawn: WindowedGeneration) -> Iterator[Request]:
    """Its requests, as if every token were a 0."""
    while (request := drawn.next_request()) is not None:
        yield request
        if (window := request.window) is not None:
            drawn.tokens[window.row : window.row + 4, window.col : window.col + 4] = 0


def test_a_picture_that_never_fits_is_refused_by_the_field_that_made_it_so() -> None:
    small = CAPACITY | {"cache_tokens": 64}
    size = {"class": 1, "width": 64, "height": 64}
    with pytest.raises(Problem) as caught:
        cost(expansion(**size), CARD, small)
    assert [(error.field, error.code) for error in caught.value.errors] == [("width", "never_fits")]
    assert cost(expansion(**size, method="windowed"), CARD, small) == 32


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
    spec = expansion(width=width, height=height)
    assert (spec.windowed, spec.rope_scaling) == (method == "windowed", None if method == "windowed" else method)
    assert spec.request["method"] == method


def test_keep_and_its_seed_are_shown_as_they_were_decided() -> None:
    fields = vary.VaryRequest.model_validate({"keep": 0.3, "seed": 7, "image": "x"})
    spec = vary.plan(fields, PictureFacts(size=(32, 32), grid=CARD.grid), CARD)
    assert (spec.request["keep"], spec.request["keep_seed"], spec.seeds, spec.windowed) == (0.3, 7, (7,), False)
    assert np.array_equal(spec.fixed_cells, kept_cells(7, 0.3, CARD.grid))
    assert "image" not in spec.request


def test_an_inpainting_draws_every_token_that_its_mask_touches() -> None:
    mask = np.zeros((50, 70), dtype=bool)
    mask[:3, :5] = True
    cells = fixed_cells(mask, (4, 4))
    fields = inpaint.InpaintFields.model_validate({"seed": 1, "feather": 2})
    tokens = np.arange(16, dtype=np.int32).reshape(4, 4) % 8
    spec = inpaint.plan(fields, PictureFacts(size=(50, 70), grid=(4, 4), fixed_cells=cells, tokens=tokens), CARD)
    assert np.flatnonzero(~spec.fixed_cells).tolist() == [0]
    assert spec.size == (50, 70)
    assert spec.picture_tokens is not None
    assert np.array_equal(spec.picture_tokens, tokens)
    other = PictureFacts(size=(50, 70), grid=(4, 4), fixed_cells=cells, tokens=np.zeros((4, 6), dtype=np.int32))
    assert inpaint.plan(fields, other, CARD).picture_tokens is None, "tokens of another grid are dropped"


def test_an_outpainting_is_encoded_as_if_its_picture_went_on() -> None:
    fields = outpaint.OutpaintFields.model_validate({"seed": 1, "up": 9})
    wide = np.zeros((4, 6), dtype=np.int32)  # 50×70 pixels are 4×6 tokens here
    facts = PictureFacts(size=(50, 70), grid=CARD.grid, tokens=wide)
    spec = outpaint.plan(fields, facts, CARD)
    assert isinstance(spec.compose, OutpaintCompose)
    assert (spec.grid, spec.window_shape, spec.windowed) == (spec.compose.geometry.grid, CARD.grid, True)
    assert spec.picture_tokens is None
    fitted = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    continued = spec.compose.geometry.continued(fitted)
    assert continued.shape == (64, 48, 3), "nothing is added on the other sides"
    assert (continued[:32] == fitted[0]).all()
    assert np.array_equal(continued[32:], fitted)
    cells = np.arange(8 * 6).reshape(8, 6)
    assert np.array_equal(spec.compose.geometry.own(cells), cells[4:])
    with pytest.raises(Problem, match="left"):
        outpaint.plan(fields.model_copy(update={"up": 0}), facts, CARD)


def test_a_fork_keeps_the_decisions_of_its_parent() -> None:
    parent = vary.plan(
        vary.VaryFields.model_validate({"seed": 7, "n": 2, "steps": 9}), PictureFacts(size=(32, 32), grid=(4, 4)), CARD
    )
    drawn = np.where(parent.fixed_cells, 1, 2).astype(np.int32)
    fields = ForkRequest.model_validate({"step": 4, "n": 3, "image_index": 1, "seed": 99})
    origin = fork.checked_origin(fields, "parent", parent, ForkProgress(9, 9, drawn))
    child = fork.plan(fields, parent, origin, drawn)
    assert (child.task, child.sampling, child.size, child.output) == ("vary", parent.sampling, (32, 32), parent.output)
    assert child.fork is not None
    assert (child.n, child.fork.job, child.fork.step) == (3, "parent", 4)
    assert child.fork.seeds == ((4, parent.seeds[1]),)
    assert np.array_equal(child.fork.replayed, drawn)
    assert np.array_equal(child.fixed_cells, parent.fixed_cells)
    with pytest.raises(Problem, match="at step 2"):
        fork.checked_origin(fields, "parent", parent, ForkProgress(2, 9, drawn))
