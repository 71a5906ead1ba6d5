"""What a painting asks of the engine, window by window: orders, forks, and the model's own grid."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.core.sequence import UNKNOWN, Drawn
from engine.editing.windows import Painting, windows_over
from engine.request import Request

SIZE = (4, 4)


@given(seed=st.integers(0, 2**16), cols=st.integers(4, 12), steps=st.integers(1, 20))
def test_each_window_draws_its_part_of_the_order_in_that_order(seed: int, cols: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = np.where(rng.random((4, cols)) < 0.4, 1, UNKNOWN).astype(np.int32)
    tokens[0, 0] = UNKNOWN
    order = tuple(rng.permutation(np.flatnonzero(tokens == UNKNOWN)).tolist())
    painting = Painting(Request(order=order, steps=steps), tokens, windows_over(tokens != UNKNOWN, SIZE), SIZE)
    drawn: list[int] = []
    while (request := painting.next_request()) is not None:
        assert request.order is not None
        assert set(request.order) == set(range(16)) - request.known.keys()
        count = len(request.order)
        painted = painting.take(
            Drawn(step=1, steps=1, positions=request.order, tokens=(2,) * count, n_done=count, n_total=count)
        )
        places = [order.index(position) for position in painted.positions]
        assert places == sorted(places)
        drawn += painted.positions
    assert sorted(drawn) == sorted(order)


def test_one_window_that_is_the_canvas_leaves_the_templates_grid_as_it_is() -> None:
    """A model that draws in a fixed order has no other; a larger one is drawn at once."""
    for template in (Request(), Request(grid=(4, 4), extension="ntk")):
        tokens = np.full(SIZE, UNKNOWN, dtype=np.int32)
        request = Painting(template, tokens, windows_over(tokens != UNKNOWN, SIZE), SIZE).next_request()
        assert request == template


def test_what_a_fork_has_drawn_is_on_the_canvas_and_is_not_known() -> None:
    tokens = np.full(SIZE, UNKNOWN, dtype=np.int32)
    tokens[0] = 7
    template = Request(drawn={5: 1, 4: 2}, steps=6)
    painting = Painting(template, tokens, windows_over(tokens != UNKNOWN, SIZE), SIZE)
    request = painting.next_request()
    assert request is not None
    assert (request.known, request.drawn) == ({0: 7, 1: 7, 2: 7, 3: 7}, {5: 1, 4: 2})
    assert (painting.steps, painting.total) == (6, 12)
    painted = painting.take(Drawn(step=3, steps=6, positions=(6,), tokens=(9,), n_done=3, n_total=12))
    assert (painted.step, painted.n_done, painted.finished) == (3, 3, False)
    assert painting.tokens.ravel()[:8].tolist() == [7, 7, 7, 7, 2, 1, 9, UNKNOWN]
