"""Windows over a canvas, and a picture drawn through them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.engine import Engine, EngineConfig
from engine.editing.windows import WindowedGeneration, cells_of_windows, windows_over
from engine.noise import uniform
from engine.request import EMPTY, Request, Window
from tests.support.tiny import random_folder

SIZE = (8, 8)


@st.composite
def canvases(draw: st.DrawFn) -> np.ndarray:
    """Fixed cells of a canvas: none, or a block anywhere."""
    rows, cols = draw(st.integers(8, 30)), draw(st.integers(8, 30))
    known = np.zeros((rows, cols), dtype=bool)
    top, left = draw(st.integers(0, rows)), draw(st.integers(0, cols))
    known[top : top + draw(st.integers(0, rows)), left : left + draw(st.integers(0, cols))] = True
    return known


@given(canvases())
def test_windows_hold_all_that_is_unknown_and_lie_on_the_canvas(known: np.ndarray) -> None:
    filled = known.copy()
    for window in windows_over(known, SIZE):
        assert 0 <= window.row <= known.shape[0] - 8
        assert 0 <= window.col <= known.shape[1] - 8
        assert window.canvas_cols == known.shape[1]
        inside = filled[window.row : window.row + 8, window.col : window.col + 8]
        assert not inside.all(), "a window without anything to draw"
        inside[:] = True
    assert filled.all()


@given(canvases())
def test_a_window_sees_what_is_there_already(known: np.ndarray) -> None:
    """All windows do, except the first one of an empty canvas."""
    filled = known.copy()
    for number, window in enumerate(windows_over(known, SIZE)):
        inside = filled[window.row : window.row + 8, window.col : window.col + 8]
        if number or (known[:, :].any() and np.lib.stride_tricks.sliding_window_view(known, SIZE).any((-2, -1)).all()):
            assert inside.any()
        inside[:] = True


def test_windows_follow_outwards_by_half_their_side() -> None:
    known = np.zeros((8, 32), dtype=bool)
    assert [w.col for w in windows_over(known, SIZE)] == [12, 8, 16, 4, 20, 0, 24]
    known[:, 8:16] = True
    assert [w.col for w in windows_over(known, SIZE)] == [4, 12, 0, 16, 20, 24]
    assert [(w.row, w.col) for w in windows_over(np.zeros((12, 12), dtype=bool), SIZE)] == [
        (0, 0),
        (0, 4),
        (4, 0),
        (4, 4),
    ]


def test_a_canvas_smaller_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="7×8 tokens is smaller than a window of 8×8"):
        windows_over(np.zeros((7, 8), dtype=bool), SIZE)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = random_folder(tmp_path_factory.mktemp("model"))
    return Engine.load(folder, device="cpu", config=EngineConfig(batch_invariant=True))


def painted(engine: Engine, template: Request, tokens: np.ndarray) -> tuple[WindowedGeneration, list[Request]]:
    known = tokens != EMPTY
    generation = WindowedGeneration(template, tokens, windows_over(known, SIZE), SIZE)
    requests = []
    steps, done = [], 0
    while (request := generation.next_request()) is not None:
        requests.append(request)
        engine.add(request)
        while not engine.idle:
            for update in engine.step():
                now = generation.update(update)
                steps.append(now.step)
                done += len(now.positions)
                assert (now.n_done, now.n_total, now.steps) == (done, generation.total, generation.steps)
                assert [generation.tokens.flat[p] for p in now.positions] == list(now.tokens)
    assert steps == list(range(1, generation.steps + 1))
    assert now.finished
    return generation, requests


def test_a_wide_picture_is_drawn_around_what_is_known(engine: Engine) -> None:
    tokens = np.full((8, 20), EMPTY, dtype=np.int32)
    tokens[:, 8:16] = np.arange(64).reshape(8, 8)
    before = tokens.copy()
    generation, requests = painted(engine, Request(class_label=1, seed=5, steps=6), tokens)
    assert np.array_equal(tokens, before), "the caller's canvas is not painted on"
    assert (generation.tokens[:, 8:16] == before[:, 8:16]).all()
    assert (generation.tokens != EMPTY).all()
    assert [request.window.col for request in requests if request.window] == [4, 12, 0]
    # The last window starts from all that the first one drew, but for its border.
    assert set(requests[2].fixed_tokens) == {cell for cell in range(64) if cell % 8 > 4}
    assert generation.total == 12 * 8 + 8


@given(canvases())
def test_a_border_between_windows_is_drawn_again_from_within(known: np.ndarray) -> None:
    """Each cell is drawn last by a window that has it inside, if there is one from then on; fixed cells never are."""
    windows = windows_over(known, SIZE)
    cells = cells_of_windows(known, windows, SIZE)
    last, last_inside = np.full(known.shape, -1), np.full(known.shape, -1)
    for number, (window, drawn) in enumerate(zip(windows, cells, strict=True)):
        place = slice(window.row, window.row + 8), slice(window.col, window.col + 8)
        assert not (drawn & known[place]).any()
        last[place] = np.where(drawn, number, last[place])
        for row, col in np.ndindex(SIZE):
            cell = window.row + row, window.col + col
            ends = [(row, 0, cell[0] == 0), (row, 7, cell[0] == known.shape[0] - 1)]
            ends += [(col, 0, cell[1] == 0), (col, 7, cell[1] == known.shape[1] - 1)]
            if all(at != end or canvas_ends for at, end, canvas_ends in ends) and last_inside[cell] < 0:
                last_inside[cell] = number
    there = ~known & (last_inside >= 0)
    assert (last[there] == last_inside[there]).all()
    assert (last[~known] >= 0).all()


def test_one_window_of_the_models_grid_is_an_ordinary_picture(engine: Engine) -> None:
    template = Request(class_label=1, seed=5, steps=6)
    generation, _ = painted(engine, template, np.full(SIZE, EMPTY, dtype=np.int32))
    [whole] = engine.generate([template])
    assert np.array_equal(generation.tokens, whole)


def test_neighbouring_windows_share_no_noise(engine: Engine) -> None:
    """Randomness depends on canvas positions: the same window elsewhere draws something else."""
    here, there = Window(0, 0, 16), Window(0, 8, 16)
    places = [[window.position(cell, 8) for cell in range(64)] for window in (here, there)]
    assert not set(places[0]) & set(places[1])
    assert len({uniform(5, "generate", place) for place in (*places[0], *places[1])}) == 128
    first, second = engine.generate(
        [Request(seed=5, window=window, top_k=0, temperature=1.0) for window in (here, there)]
    )
    assert (first == second).mean() < 0.2
    whole, alone = engine.generate([Request(seed=5, window=Window(0, 0, 8)), Request(seed=5)])
    assert np.array_equal(whole, alone)
