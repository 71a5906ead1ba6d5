"""The requests of a windowed generation: orders, forks, and the model's own grid."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.editing.windows import WindowedGeneration, windows_over
from engine.request import EMPTY, Request, StepOutput

SIZE = (4, 4)


@given(seed=st.integers(0, 2**16), cols=st.integers(4, 12), steps=st.integers(1, 20))
def test_each_window_draws_its_part_of_the_order_in_that_order(seed: int, cols: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = np.where(rng.random((4, cols)) < 0.4, 1, EMPTY).astype(np.int32)
    tokens[0, 0] = EMPTY
    order = tuple(rng.permutation(np.flatnonzero(tokens == EMPTY)).tolist())
    generation = WindowedGeneration(
        Request(order=order, steps=steps), tokens, windows_over(tokens != EMPTY, SIZE), SIZE
    )
    drawn: list[int] = []
    while (request := generation.next_request()) is not None:
        assert request.order is not None
        assert set(request.order) == set(range(16)) - request.fixed_tokens.keys()
        count = len(request.order)
        painted = generation.update(
            StepOutput(step=1, steps=1, positions=request.order, tokens=(2,) * count, n_done=count, n_total=count)
        )
        places = [order.index(position) for position in painted.positions]
        assert places == sorted(places)
        drawn += painted.positions
    assert set(drawn) == set(order)
    assert len(drawn) == generation.total


def test_one_window_that_is_the_canvas_leaves_the_templates_grid_as_it_is() -> None:
    """A model with a fixed order accepts no other grid; a grid larger than the model's is drawn at once."""
    for template in (Request(), Request(grid=(4, 4), rope_scaling="ntk")):
        tokens = np.full(SIZE, EMPTY, dtype=np.int32)
        request = WindowedGeneration(template, tokens, windows_over(tokens != EMPTY, SIZE), SIZE).next_request()
        assert request == template


def test_what_a_fork_has_drawn_is_on_the_canvas_and_is_not_known() -> None:
    tokens = np.full(SIZE, EMPTY, dtype=np.int32)
    tokens[0] = 7
    template = Request(replayed_tokens={5: 1, 4: 2}, steps=6)
    generation = WindowedGeneration(template, tokens, windows_over(tokens != EMPTY, SIZE), SIZE)
    request = generation.next_request()
    assert request is not None
    assert (request.fixed_tokens, request.replayed_tokens) == ({0: 7, 1: 7, 2: 7, 3: 7}, {5: 1, 4: 2})
    assert (generation.steps, generation.total) == (6, 12)
    painted = generation.update(StepOutput(step=3, steps=6, positions=(6,), tokens=(9,), n_done=3, n_total=12))
    assert (painted.step, painted.n_done, painted.finished) == (3, 3, False)
    assert generation.tokens.ravel()[:8].tolist() == [7, 7, 7, 7, 2, 1, 9, EMPTY]
