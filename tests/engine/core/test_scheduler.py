"""Properties of pages and scheduler, in thousands of random runs without a model."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.core.pages import IntegrityError, OutOfPages, PageAllocator
from engine.core.scheduler import Scheduler
from engine.core.sequence import SequenceState
from engine.core.text_places import TextPlaces
from engine.plans import CONDITION, FIRST_TOKEN, Plan, cell_of
from engine.plans.arpg import plan_arpg
from engine.plans.guidance_schedule import conditions as class_conditions
from engine.plans.llamagen import plan_llamagen
from engine.plans.text import text_conditions
from engine.request import EMPTY, Request
from tests.support.tiny import random_text

GRID = (2, 8)
POSITIONS = 16
TEXT_ROWS = 18
PAGE = 16
"""Rows of a page, at most."""


def go_on(sequence: SequenceState, tokens: list[int]) -> None:
    """Take the sequence's next step, as if these tokens were drawn."""
    sequence.program(PAGE)  # made by the packer
    sequence.commit(sequence.dispatch(), tokens)


def drawing(number: int, request: Request) -> SequenceState:
    label = 100 + (request.class_label or 0)
    if request.prompt is None:
        plan = plan_arpg(request, grid=GRID, mask_id=99, conditions=class_conditions(request, label, 104))
    else:
        conditions = text_conditions(request, null_id=105, null_rows=TEXT_ROWS)
        plan = plan_llamagen(request, positions=POSITIONS, conditions=conditions)
    return SequenceState.begin(number, request, plan, GRID)


def planned(request: Request) -> Plan:
    return drawing(0, replace(request, replayed_tokens={})).plan


def picture(seed: int, size: int) -> dict[int, int]:
    """Some tokens of a picture. There are few pictures, so that requests often start with the same rows."""
    return {cell: (cell * 7 + seed) % 10 for cell in range(size)}


drawable = st.builds(
    Request,
    class_label=st.none() | st.integers(0, 1),
    seed=st.integers(0, 99),
    steps=st.integers(1, 20),
    guidance_scale=st.sampled_from([1.0, 3.0]),
    fixed_tokens=st.builds(picture, st.integers(0, 1), st.sampled_from([0, 3, 11, POSITIONS - 1]))
    | st.dictionaries(st.integers(0, POSITIONS - 1), st.integers(0, 9), max_size=POSITIONS - 1),
    prefill=st.sampled_from(["causal", "chunked", "block"]),
)
texts = st.builds(random_text, st.integers(0, 1), st.sampled_from([1, 2, 7, TEXT_ROWS]))
with_text = st.builds(
    Request,
    prompt=texts,
    negative_prompt=st.none() | texts,
    seed=st.integers(0, 99),
    guidance_scale=st.sampled_from([1.0, 3.0]),
)


def content_of(plan: Plan, branch: int, content: int, position: int, visible: int) -> tuple[object, ...]:
    """What a row of the plan is in a branch, which may lack the first condition rows."""
    absent = plan.absent[branch]
    shifted = content + absent if content <= CONDITION else content
    return plan.conditions[branch], shifted, position, visible - absent


class Serving(RuleBasedStateMachine):
    """Any sequence of add, step and abort."""

    @initialize(page_size=st.sampled_from([1, 4, 16]), room=st.integers(1, 4), max_rows=st.integers(1, 60))
    def start(self, page_size: int, room: int, max_rows: int) -> None:
        # Enough for at least one request of any kind.
        pages = room * 2 * -(-(POSITIONS + TEXT_ROWS) // page_size)
        self.places = TextPlaces(200, TEXT_ROWS, 2)
        self.scheduler = Scheduler(PageAllocator(pages), page_size=page_size, max_rows=max_rows, texts=self.places)
        self.known: dict[int, SequenceState] = {}
        self.gone: set[int] = set()
        self.slots: dict[int, object] = {}  # what the steps wrote into the cache

    @rule(request=drawable | with_text)
    def add(self, request: Request) -> None:
        number = len(self.known)
        self.known[number] = drawing(number, request)
        self.scheduler.add(self.known[number])

    @precondition(lambda self: any(d.drawn for d in self.known.values() if not d.finished))
    @rule(data=st.data(), seed=st.integers(0, 99))
    def fork(self, data: st.DataObject, seed: int) -> None:
        parents = [number for number, d in self.known.items() if d.drawn and not d.finished]
        parent = self.known[data.draw(st.sampled_from(parents))]
        order = tuple(cell for step in planned(parent.request).steps for cell in step.targets)
        drawn = {cell: parent.tokens[cell] for cell in order if parent.tokens[cell] != EMPTY}
        self.add(replace(parent.request, seed=seed, order=order, replayed_tokens=drawn))

    @precondition(lambda self: self.known)
    @rule(data=st.data(), twice=st.booleans())
    def abort(self, data: st.DataObject, twice: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.known)))
        for _ in range(1 + twice):
            self.scheduler.abort(number)
        self.gone.add(number)

    @rule()
    def step(self) -> None:
        turn = self.scheduler.schedule()
        assert not {d.id for d in turn} & self.gone, "an aborted or finished request was scheduled"
        rows = sum(d.rows for d in turn)
        assert rows <= self.scheduler.max_rows or len(turn) == 1
        size = self.scheduler.page_size
        for source, target in self.scheduler.page_copies:
            for offset in range(size):
                self.slots[target * size + offset] = self.slots.get(source * size + offset)
        self.scheduler.page_copies.clear()
        for each in turn:
            self.write(each)
            for table in each.block_tables:
                cached = each.cached + sum(row.cached for row in each.step.rows)
                assert cached <= len(table) * self.scheduler.page_size, "a row without a slot"
            go_on(each, [(each.id + cell) % 10 for cell in each.step.targets])
            if each.finished:
                self.scheduler.retire(each)
                self.gone.add(each.id)

    def write(self, each: SequenceState) -> None:
        for branch, table in enumerate(each.block_tables):
            for index, row in enumerate((row for row in each.step.rows if row.cached), start=each.cached):
                assert row.visible <= each.cached + sum(row.cached for row in each.step.rows)
                content = each.tokens[cell_of(row.source)] if row.source <= FIRST_TOKEN else row.source
                if index >= each.plan.absent[branch]:
                    self.slots[self.slot(table, index - each.plan.absent[branch])] = content_of(
                        each.plan, branch, content, row.position, row.visible
                    )

    def slot(self, table: list[int], index: int) -> int:
        page, offset = divmod(index, self.scheduler.page_size)
        return table[page] * self.scheduler.page_size + offset

    @invariant()
    def books_add_up(self) -> None:
        pages = self.scheduler.pages
        assert (
            pages.free + len({page for d in self.scheduler for table in d.block_tables for page in table})
            == pages.total
        )
        self.scheduler.check_integrity()

    @invariant()
    def everybody_finds_the_rows_that_are_theirs(self) -> None:
        """Shared, copied or written: the pages of a sequence hold what it would have written itself."""
        for each in self.scheduler:
            rows = [row for key in each.written_keys for row in struct.iter_unpack("3q", key.content)]
            assert len(rows) == each.cached
            expected = [row for step in planned(each.request).steps for row in step.rows if row.cached][: len(rows)]
            assert [(row.position, row.visible) for row in expected] == [row[1:] for row in rows]
            for branch, table in enumerate(each.block_tables):
                there = rows[each.plan.absent[branch] :]
                assert [self.slots[self.slot(table, i)] for i in range(len(there))] == [
                    content_of(each.plan, branch, *row) for row in there
                ]

    @invariant()
    def equal_texts_have_one_place(self) -> None:
        held = {text for each in self.scheduler.running for text in each.texts}
        assert self.places.used == len(held) <= 2
        for each in self.scheduler.running:
            sources = [one.source for one in each.plan.conditions]
            assert len(each.condition_ids) == len(sources)
            assert all(id == source for id, source in zip(each.condition_ids, sources, strict=True) if id < 200)
        ids = {id for each in self.scheduler.running for id in each.condition_ids if id >= 200}
        assert len(ids) == len(held)

    def teardown(self) -> None:
        """Every accepted request ends, and every page becomes free."""
        for _ in range(2000):
            if not self.scheduler.schedule() and self.scheduler.idle:
                break
            self.step()
        assert self.scheduler.idle
        assert self.scheduler.pages.used == 0
        assert all(d.finished or d.id in self.gone for d in self.known.values())


TestServing = Serving.TestCase
TestServing.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def waiting_for(pages: int, max_rows: int, max_running: int) -> tuple[int, int, str | None]:
    """Of six requests: how many take part in the second step, how many run, and what limits them."""
    scheduler = Scheduler(PageAllocator(pages), page_size=4, max_rows=max_rows, max_running=max_running)
    for number in range(6):
        scheduler.add(drawing(number, Request(class_label=0, seed=number, steps=16)))
    for each in scheduler.schedule():
        go_on(each, [0] * len(each.step.targets))
    turn = scheduler.schedule()
    return len(turn), len(scheduler.running), scheduler.limit


def test_what_keeps_a_request_out_is_named() -> None:
    each = drawing(0, Request(class_label=0, steps=16))
    pages, rows = each.pages(4), each.rows
    assert waiting_for(6 * pages, 6 * rows, 6) == (6, 6, None)
    assert waiting_for(4 * pages, 6 * rows, 6) == (4, 4, "pages")
    assert waiting_for(6 * pages, 3 * rows, 6) == (3, 6, "rows")
    assert waiting_for(6 * pages, 6 * rows, 2) == (2, 2, "sequences")


@pytest.mark.parametrize("all_pages", [True, False])
def test_a_page_that_no_table_lists_is_found(all_pages: bool) -> None:
    scheduler = Scheduler(PageAllocator(9), page_size=4, max_rows=100)
    scheduler.check_integrity(all_pages=all_pages)
    scheduler.pages.allocate(1)
    with pytest.raises(IntegrityError):
        scheduler.check_integrity(all_pages=all_pages)


@given(st.lists(st.sampled_from(["allocate", "share", "release"]), max_size=60), st.randoms())
def test_shared_pages_are_free_when_the_last_holder_is_gone(verbs: list[str], random: object) -> None:
    pages = PageAllocator(12)
    block_tables: list[list[int]] = []
    for verb in verbs:
        if verb == "allocate" and pages.free >= 3:
            block_tables.append(pages.allocate(3))
        elif verb == "share" and block_tables:
            block_tables.append(list(random.choice(block_tables)))  # type: ignore[attr-defined]
            pages.share(block_tables[-1])
        elif verb == "release" and block_tables:
            pages.release(block_tables.pop(random.randrange(len(block_tables))))  # type: ignore[attr-defined]
        assert pages.used == len({page for table in block_tables for page in table})
        pages.check_integrity(block_tables)


def test_an_allocation_that_does_not_fit_takes_nothing() -> None:
    pages = PageAllocator(4)
    pages.allocate(3)
    with pytest.raises(OutOfPages, match="2 pages asked for, 1 of 4 free"):
        pages.allocate(2)
    assert pages.free == 1


def test_whoever_stood_back_goes_first_next_time() -> None:
    scheduler = Scheduler(PageAllocator(1000), page_size=4, max_rows=14)
    for number in range(6):
        scheduler.add(drawing(number, Request(class_label=0, seed=number, steps=16)))
    turns: dict[int, int] = dict.fromkeys(range(6), 0)
    for _ in range(18):
        for each in scheduler.schedule():
            go_on(each, [(each.id + cell) % 10 for cell in each.step.targets])
            turns[each.id] += 1
    assert max(turns.values()) - min(turns.values()) <= 1


def test_a_request_larger_than_the_row_budget_runs_alone() -> None:
    scheduler = Scheduler(PageAllocator(1000), page_size=4, max_rows=8)
    scheduler.add(drawing(0, Request(class_label=0, steps=1)))
    scheduler.add(drawing(1, Request(class_label=0, steps=16)))
    assert [d.id for d in scheduler.schedule()] == [0]


@pytest.mark.parametrize("damage", ["stolen", "twice", "lost", "freed", "outside", "miscounted"])
def test_a_corrupted_table_makes_the_integrity_check_fire(damage: str) -> None:
    scheduler = Scheduler(PageAllocator(64), page_size=4, max_rows=100)
    for number in range(2):
        scheduler.add(drawing(number, Request(class_label=0, seed=number)))
    one, other = scheduler.schedule()
    scheduler.check_integrity()
    if damage == "stolen":
        one.block_tables[0][0] = other.block_tables[0][0]
    elif damage == "twice":
        one.block_tables[0][1] = one.block_tables[0][0]
    elif damage == "lost":
        one.block_tables[0].pop()
    elif damage == "freed":
        scheduler.pages.release(other.block_tables[1])
    elif damage == "outside":
        one.block_tables[1][0] = 64
    elif damage == "miscounted":
        scheduler.pages.share(one.block_tables[0])
    with pytest.raises(IntegrityError):
        scheduler.check_integrity()
