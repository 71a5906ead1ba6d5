"""Properties of schedules and row programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.checks import check_request
from engine.noise import image_seed, permutation, uniform
from engine.plans import CONDITION, Condition, Plan, cell_of, token_at
from engine.plans.arpg import PREFILL_ROWS, plan_arpg
from engine.plans.guidance_schedule import conditions, guidance_scales
from engine.plans.schedule import step_counts
from engine.request import Request, RequestError, TextFeatures, Window

schedules: st.SearchStrategy[Any] = st.sampled_from(["arccos", "cosine"])


@pytest.mark.parametrize(
    ("steps", "schedule", "first", "last"),
    [
        (64, "arccos", (3, 3, 2, 3, 2, 3, 2, 3), (7, 7, 7, 10, 12, 28)),
        (32, "arccos", (6, 5, 5, 5), (11, 14, 17, 40)),
        (16, "arccos", (11, 10), (25, 57)),
        (128, "arccos", (), (20,)),
        (256, "arccos", (1, 1, 1), (1, 1)),
        (64, "cosine", (1, 1, 1), ()),
    ],
)
def test_step_counts_are_the_published_ones(
    steps: int, schedule: Any, first: tuple[int, ...], last: tuple[int, ...]
) -> None:
    counts = step_counts(256, steps, schedule)
    assert counts[: len(first)] == first
    assert counts[len(counts) - len(last) :] == last


@given(st.integers(1, 1100), st.integers(1, 256), schedules)
def test_every_step_draws_and_all_positions_are_drawn(unknown: int, steps: int, schedule: Any) -> None:
    counts = step_counts(unknown, steps, schedule)
    assert len(counts) == min(steps, unknown)
    assert min(counts) >= 1
    assert sum(counts) == unknown


def test_linear_guidance_counts_the_tokens_of_its_own_step() -> None:
    assert guidance_scales((1, 3), 0, 5.0, "linear") == (2.0, 5.0)
    assert guidance_scales((1, 3), 4, 5.0, "linear") == (3.5, 5.0)
    assert guidance_scales((1, 3), 4, 5.0, "constant") == (5.0, 5.0)


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=20).map(tuple),
    st.integers(0, 20),
    st.sampled_from(["linear", "constant"]),
    st.integers(0, 300),
)
def test_guidance_ends_where_its_interval_does(
    counts: tuple[int, ...], known: int, schedule: Any, interval: int
) -> None:
    always = guidance_scales(counts, known, 5.0, schedule)
    drawn = [sum(counts[:step]) for step in range(len(counts))]
    expected = tuple(scale if before < interval else 1.0 for before, scale in zip(drawn, always, strict=True))
    assert guidance_scales(counts, known, 5.0, schedule, interval) == expected


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, Request]:
    positions = draw(st.integers(2, 200))
    known = draw(st.sets(st.integers(0, positions - 1), max_size=positions - 1))
    unknown = sorted(set(range(positions)) - known)
    order = draw(st.none() | st.permutations(unknown).map(tuple))
    request = Request(
        class_label=draw(st.none() | st.integers(0, 9)),
        seed=draw(st.integers(0, 2**63 - 1)),
        steps=draw(st.integers(1, 256)),
        schedule=draw(schedules),
        guidance_scale=draw(st.sampled_from([1.0, 4.0])),
        guidance_interval=draw(st.sampled_from([None, 0, 1, 50])),
        content_attention=draw(st.sampled_from(["blockwise", "causal"])),
        order=order,
        fixed_tokens=dict.fromkeys(known, 0),
    )
    return positions, request


def planned(positions: int, request: Request) -> Plan:
    return plan_arpg(request, grid=(1, positions), mask_id=1000, conditions=conditions(request, 1001, 1002))


@given(requests())
def test_a_plan_draws_each_unknown_cell_once_from_what_came_before(case: tuple[int, Request]) -> None:
    positions, request = case
    plan = planned(positions, request)
    known = set(request.fixed_tokens)
    cached: list[int] = []
    drawn: list[int] = []
    for step in plan.steps:
        content = [row for row in step.rows if row.cached]
        queries = [row for row in step.rows if not row.cached]
        assert step.rows == (*content, *queries)
        for row in content:
            if row.source == CONDITION:
                assert row.position == 0
                assert not cached
            else:
                cell = cell_of(row.source)
                assert row.position == cell + 1
                # A row carries a token that exists: fixed, or drawn by an earlier step.
                assert cell in known or cell in drawn
            cached.append(row.source)
        for index, row in enumerate(content, start=len(cached) - len(content)):
            drawn_before = row.source != CONDITION and cell_of(row.source) in drawn
            blockwise = drawn_before and request.content_attention == "blockwise"
            assert row.visible == (len(cached) if blockwise else index + 1)
        for row in queries:
            assert row.visible == len(cached)
            assert row.position == row.target + 1
        drawn += step.targets
    assert sorted(drawn) == sorted(set(range(positions)) - known)
    assert cached[0] == CONDITION
    assert len(set(cached)) == len(cached) == plan.cached_rows
    # The last chunk is never cached, everything else is.
    assert plan.cached_rows == 1 + positions - len(plan.steps[-1].targets) <= positions
    if request.order:
        assert tuple(drawn) == request.order
    if request.class_label is None:
        assert plan.conditions == (Condition(1002),)
    else:
        guided = request.guidance_scale != 1 and request.guidance_interval != 0
        assert plan.conditions == ((Condition(1001), Condition(1002)) if guided else (Condition(1001),))


@given(requests())
def test_rows_of_known_tokens_depend_on_no_seed_and_come_in_bounded_pieces(case: tuple[int, Request]) -> None:
    positions, request = case
    known = set(request.fixed_tokens)

    def prefix(seed: int) -> list[tuple[int, int]]:
        plan = planned(positions, Request(seed=seed, fixed_tokens=request.fixed_tokens))
        rows = [row for step in plan.steps for row in step.rows if row.cached]
        return [(row.source, row.visible) for row in rows[: 1 + len(known)]]

    assert prefix(1) == prefix(2)
    assert [visible for _, visible in prefix(1)] == list(range(1, 2 + len(known)))
    assert {cell_of(source) for source, _ in prefix(1)[1:]} == known
    plan = planned(positions, request)
    first = next(i for i, step in enumerate(plan.steps) if step.targets)
    assert all(sum(r.cached for r in step.rows) <= PREFILL_ROWS for step in plan.steps[: first + 1])


@given(requests(), st.integers(0, 199))
def test_a_first_cell_comes_first_among_the_known_or_the_drawn(case: tuple[int, Request], cell: int) -> None:
    positions, request = case
    branches = conditions(request, 1001, 1002)
    plan = plan_arpg(request, grid=(1, positions), mask_id=1000, conditions=branches, first_cell=cell)
    drawn = [target for step in plan.steps for target in step.targets]
    known = [cell_of(row.source) for step in plan.steps for row in step.rows if row.cached][
        1 : 1 + len(request.fixed_tokens)
    ]
    if cell in known:
        assert known[0] == cell
    elif cell < positions and request.order is None:
        assert drawn[0] == cell
        assert request.fixed_tokens or len(plan.steps) == 1 or plan.steps[0].targets == (cell,)
    else:
        assert drawn == [t for step in planned(positions, request).steps for t in step.targets]


def test_sources_of_cells_are_invertible() -> None:
    assert [cell_of(token_at(cell)) for cell in range(300)] == list(range(300))
    assert all(token_at(cell) not in (CONDITION, *range(10)) for cell in range(300))


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("class_label", Request(class_label=10)),
        ("seed", Request(seed=-1)),
        ("steps", Request(steps=0)),
        ("steps", Request(steps=257)),
        ("schedule", Request(schedule="linear")),  # type: ignore[arg-type]
        ("guidance_schedule", Request(guidance_schedule="cosine")),  # type: ignore[arg-type]
        ("content_attention", Request(content_attention="none")),  # type: ignore[arg-type]
        ("guidance_scale", Request(guidance_scale=float("nan"))),
        ("guidance_interval", Request(guidance_interval=-1)),
        ("temperature", Request(temperature=-0.1)),
        ("top_k", Request(top_k=-1)),
        ("top_k", Request(top_k=2**70)),
        ("top_p", Request(top_p=0)),
        ("fixed_tokens", Request(fixed_tokens={16: 0})),
        ("fixed_tokens", Request(fixed_tokens={0: 48})),
        ("fixed_tokens", Request(fixed_tokens=dict.fromkeys(range(16), 0))),
        ("order", Request(order=(0, 1))),
        ("order", Request(order=(0, *range(15)))),
        ("order", Request(order=tuple(range(16)), fixed_tokens={3: 0})),
    ],
)
def test_a_bad_request_is_refused_with_the_field_at_fault(field: str, request_: Request) -> None:
    with pytest.raises(RequestError) as caught:
        check_request(request_, grid=(4, 4), codebook_size=48, num_classes=10)
    assert caught.value.field == field
    assert str(caught.value).startswith(field)


@pytest.mark.parametrize(
    ("field", "request_"),
    [("fixed_tokens", Request(fixed_tokens={3: 0})), ("order", Request(order=(0, 1))), ("grid", Request(grid=(4, 4)))],
)
def test_what_asks_for_an_order_is_refused_where_there_is_but_one(field: str, request_: Request) -> None:
    with pytest.raises(RequestError, match=f"^{field}: this model draws every position of its own grid"):
        check_request(request_, grid=(4, 4), codebook_size=48, num_classes=10, any_order=False)


FEATURES = TextFeatures(np.zeros((2, 8), np.float32), "features")


@pytest.mark.parametrize(
    ("field", "request_"),
    [("prompt", Request(prompt=FEATURES)), ("negative_prompt", Request(negative_prompt=FEATURES))],
)
def test_a_model_that_draws_classes_refuses_a_prompt(field: str, request_: Request) -> None:
    with pytest.raises(RequestError, match=f"^{field}: this model draws classes"):
        check_request(request_, grid=(4, 4), codebook_size=48, num_classes=10)


@given(st.integers(0, 2**63 - 1), st.integers(1, 15))
def test_images_of_a_job_have_seeds_of_their_own_and_the_first_has_the_jobs(seed: int, index: int) -> None:
    assert image_seed(seed, 0) == seed
    assert 0 <= image_seed(seed, index) <= 2**32 - 1
    assert image_seed(seed, index) != image_seed(seed, index - 1)


def test_the_random_numbers_are_those_of_every_picture_so_far() -> None:
    assert image_seed(7, 1) == 823756218
    assert uniform(7, "generate", 3) == 0.39053632360864654


def test_a_permutation_depends_on_seed_and_purpose() -> None:
    one = permutation(1, "generate/order", range(64))
    assert sorted(one) == list(range(64))
    assert one == permutation(1, "generate/order", reversed(range(64)))
    assert one != permutation(2, "generate/order", range(64))
    assert one != permutation(1, "inpaint/order", range(64))


def test_uniform_numbers_stay_inside_the_open_interval() -> None:
    numbers = [uniform(seed, "generate", cell) for seed in range(50) for cell in range(200)]
    assert 0 < min(numbers) < 0.001
    assert 0.999 < max(numbers) < 1


@pytest.mark.parametrize(("chosen", "chunk"), [({}, 1), ({"prefill": "causal"}, 1), ({"prefill": "chunked"}, 16)])
@pytest.mark.parametrize("window", [None, Window(0, 8, 40)])
def test_known_tokens_see_the_earlier_ones_and_their_chunk(
    chosen: dict[str, Any], chunk: int, window: Window | None
) -> None:
    request = Request(fixed_tokens=dict.fromkeys(range(20), 0), window=window, **chosen)
    plan = planned(40, request)
    rows = [row for step in plan.steps for row in step.rows if row.cached][:21]
    assert [row.visible for row in rows] == [1, *(1 + min(i // chunk * chunk + chunk, 20) for i in range(20))]
