"""Properties of the row programs with a fixed order: LlamaGen's, with classes and with text, and PAR's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.plans import CONDITION, Condition, cell_of, condition_at, token_at
from engine.plans.guidance_schedule import conditions
from engine.plans.llamagen import plan_llamagen
from engine.plans.par import plan_par, region_groups
from engine.plans.text import TEXT_ROWS, text_conditions
from engine.request import Request
from tests.support.tiny import random_text

requests = st.builds(
    Request,
    class_label=st.none() | st.integers(0, 9),
    guidance_scale=st.sampled_from([1.0, 4.0]),
    guidance_interval=st.sampled_from([None, 0, 1, 50]),
)
sides = st.integers(1, 6)


@given(sides, sides, st.sampled_from([4, 9, 16, 25]))
def test_each_group_holds_one_cell_of_every_region(height: int, width: int, regions: int) -> None:
    """… the same one, and region by region; the groups go through a region row by row."""
    across = round(regions**0.5)
    rows, cols = height * across, width * across
    groups = region_groups((rows, cols), regions)
    assert sorted(cell for group in groups for cell in group) == list(range(rows * cols))
    for index, group in enumerate(groups):
        places = [divmod(cell, cols) for cell in group]
        assert [(row // height, col // width) for row, col in places] == [divmod(r, across) for r in range(regions)]
        assert {(row % height, col % width) for row, col in places} == {divmod(index, width)}


def test_the_groups_of_the_published_grid_begin_as_published() -> None:
    assert region_groups((8, 8), 4)[:3] == ((0, 4, 32, 36), (1, 5, 33, 37), (2, 6, 34, 38))


@pytest.mark.parametrize(("grid", "regions"), [((8, 8), 1), ((8, 8), 0), ((8, 8), 8), ((8, 6), 16), ((6, 8), 16)])
def test_regions_that_do_not_tile_the_grid_are_refused(grid: tuple[int, int], regions: int) -> None:
    with pytest.raises(ValueError, match=f"regions: {regions} equal regions"):
        region_groups(grid, regions)


@pytest.mark.parametrize(
    ("grid", "regions", "steps"), [((24, 24), 4, 147), ((24, 24), 16, 51), ((16, 16), 4, 67), ((4, 4), 16, 16)]
)
def test_par_takes_the_published_number_of_steps(grid: tuple[int, int], regions: int, steps: int) -> None:
    groups = region_groups(grid, regions)
    plan = plan_par(Request(), groups=groups, special_ids=range(regions - 1), class_id=1001, null_id=1002)
    assert len(plan.steps) == plan.drawing_steps == steps


@given(requests, sides, sides, st.sampled_from([4, 9, 16]))
def test_par_draws_each_cell_once_and_each_block_sees_itself_and_what_came_before(
    request: Request, height: int, width: int, regions: int
) -> None:
    across = round(regions**0.5)
    groups = region_groups((height * across, width * across), regions)
    special_ids = range(2000, 2000 + regions - 1)
    plan = plan_par(request, groups=groups, special_ids=special_ids, class_id=1001, null_id=1002)
    cached = 0
    drawn: list[int] = []
    carried: list[int] = []
    for step in plan.steps:
        cached += len(step.rows)
        for row in step.rows:
            assert row.cached
            assert row.visible == cached
            carried.append(row.source)
            if row.source == CONDITION or row.source in special_ids:
                assert row.position == 0
            else:
                assert row.position == cell_of(row.source) + 1
                assert cell_of(row.source) in drawn
        drawn += step.targets
    assert drawn == [cell for group in groups for cell in group]
    assert [len(step.targets) for step in plan.steps] == [1] * regions + [regions] * (len(groups) - 1)
    # Every token but those of the last group enters the cache, in drawing order, the special ones after the first n.
    tokens = [token_at(cell) for group in groups[:-1] for cell in group]
    specials = list(special_ids) if len(groups) > 1 else []
    last_alone = [] if specials else [token_at(cell) for cell in groups[0][:-1]]
    assert carried == [CONDITION, *tokens[:regions], *specials, *tokens[regions:], *last_alone]
    assert plan.cached_rows == cached == len(drawn)


@given(requests, st.integers(2, 200))
def test_llamagen_draws_row_by_row_each_cell_from_the_token_before(request: Request, positions: int) -> None:
    plan = plan_llamagen(request, positions=positions, conditions=conditions(request, 1001, 1002))
    assert [step.targets for step in plan.steps] == [(cell,) for cell in range(positions)]
    rows = [row for step in plan.steps for row in step.rows]
    assert rows[0] == (CONDITION, 0, 1, True, 0)
    assert [cell_of(row.source) for row in rows[1:]] == list(range(positions - 1))
    assert all(row.position == cell_of(row.source) + 1 for row in rows[1:])
    assert [row.visible for row in rows] == list(range(1, positions + 1))
    # The last token is never cached.
    assert plan.cached_rows == positions
    # It equals PAR with a single region.
    single = tuple((cell,) for cell in range(positions))
    assert plan == plan_par(request, groups=single, special_ids=(), class_id=1001, null_id=1002)


@given(requests, st.sampled_from([None, 0, 1, 5, 1000]))
def test_guidance_of_a_fixed_order_is_constant_up_to_its_interval(request: Request, interval: int | None) -> None:
    request = replace(request, guidance_scale=3.0, guidance_interval=interval)
    groups = region_groups((4, 6), 4)
    for plan in (
        plan_llamagen(request, positions=24, conditions=conditions(request, 1001, 1002)),
        plan_par(request, groups=groups, special_ids=(1, 2, 3), class_id=1001, null_id=1002),
    ):
        drawn = 0
        for step in plan.steps:
            assert step.guidance == (3.0 if interval is None or drawn < interval else 1.0)
            drawn += len(step.targets)


lengths = st.integers(1, 120)


@given(lengths, st.none() | lengths, st.integers(2, 40))
def test_a_text_is_written_in_pieces_and_its_last_row_decides_the_first_token(
    rows: int, negative: int | None, positions: int
) -> None:
    other = None if negative is None else random_text(1, negative)
    request = Request(prompt=random_text(0, rows), negative_prompt=other)
    plan = plan_llamagen(request, positions=positions, conditions=text_conditions(request, null_id=97, null_rows=120))
    longest = max(rows, negative or 0)
    written = [row for step in plan.steps for row in step.rows]
    text, tokens = written[:longest], written[longest:]
    assert [row.source for row in text] == [condition_at(index) for index in range(longest)]
    assert [row.source for row in tokens] == [token_at(cell) for cell in range(positions - 1)]
    assert [row.position for row in written] == [0] * longest + list(range(1, positions))
    assert [row.visible for row in written] == list(range(1, longest + positions))
    assert [row.target for row in written] == [-1] * (longest - 1) + list(range(positions))
    assert all(row.cached for row in written)
    prefill = [len(step.rows) for step in plan.steps[: len(plan.steps) - positions]]
    assert sum(prefill) == longest - 1
    assert all(count == TEXT_ROWS for count in prefill[:-1])
    assert plan.drawing_steps == positions
    assert plan.cached_rows == longest + positions - 1
    # Each branch has the rows of its own text and all the tokens.
    assert plan.absent == (longest - rows, longest - (negative or rows))
    total = sum(plan.rows(index) for index in range(len(plan.steps)))
    assert total == rows + (negative or rows) + 2 * (positions - 1)


def test_the_unconditional_branch_has_as_many_rows_as_the_prompt_the_last_ones() -> None:
    def conditions_of(**fields: Any) -> tuple[Condition, ...]:
        return text_conditions(Request(**fields), null_id=97, null_rows=120)

    prompt, negative = random_text(0, 5), random_text(1, 9)
    assert conditions_of(prompt=prompt) == (Condition(prompt, 5), Condition(97 + 115, 5))
    assert conditions_of(prompt=random_text(0, 120))[1] == Condition(97, 120)
    assert conditions_of(prompt=prompt, negative_prompt=negative) == (Condition(prompt, 5), Condition(negative, 9))
    assert conditions_of(prompt=prompt, guidance_scale=1) == (Condition(prompt, 5),)
    assert conditions_of(prompt=prompt, guidance_interval=0) == (Condition(prompt, 5),)
    assert conditions_of() == (Condition(97, 120),)
