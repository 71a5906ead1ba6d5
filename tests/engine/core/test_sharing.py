"""Sequences that start with the same rows share pages, and draw what they would have drawn alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.core.engine import Engine, EngineConfig
from engine.request import Request, RequestError
from tests.support.tiny import random_folder

PAGE = 4
KNOWN = {cell: cell * 5 % 64 for cell in range(21)}
INPAINT = Request(class_label=1, seed=3, steps=8, fixed_tokens=KNOWN, task="inpaint", guidance_scale=3.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: random_folder(root / family, family=family) for family in ("arpg", "llamagen", "par")}


def engine_of(folder: Path, **settings: object) -> Engine:
    config = EngineConfig(page_size=PAGE, cache_tokens=4096, batch_invariant=True, check_every_step=True, **settings)  # type: ignore[arg-type]
    return Engine.load(folder, device="cpu", config=config)


def alone(folder: Path, request: Request) -> np.ndarray:
    [tokens] = engine_of(folder).generate([request])
    return tokens


@pytest.mark.parametrize("prefill", ["causal", "chunked", "block"])
def test_variations_write_their_prefix_once(folders: dict[str, Path], prefill: str) -> None:
    engine = engine_of(folders["arpg"])
    requests = [replace(INPAINT, seed=seed, prefill=prefill) for seed in range(6)]  # type: ignore[arg-type]
    ids = [engine.add(request) for request in requests]
    rows, full = 1 + len(KNOWN), (1 + len(KNOWN)) // PAGE
    seen = False
    while not engine.idle:
        engine.step()
        block_tables = [d.block_tables for d in engine._scheduler.running]
        if len(block_tables) == len(ids):
            seen = True
            for branch in range(2):
                assert len({tuple(table[branch][:full]) for table in block_tables}) == 1, (
                    "a full prefix page exists twice"
                )
                held = Counter(page for table in block_tables for page in table[branch][full:])
                assert max(held.values()) == 1, "a page that somebody writes to is shared"
    assert seen
    stats = engine.stats()
    assert stats.rows_shared_total == 2 * rows * 5
    assert stats.pages_copied_total == 2 * 5  # a page a variation and branch: 22 rows are five pages and a half
    drawn = sum(64 - len(KNOWN) for _ in ids)
    last = sum(len(engine._plan(request).steps[-1].targets) for request in requests)  # never cached
    queries = drawn
    assert stats.rows_total == 2 * (rows + drawn - last + queries), "a prefix row was computed twice"


def test_variations_draw_what_they_draw_alone(folders: dict[str, Path]) -> None:
    requests = [replace(INPAINT, seed=seed) for seed in range(4)]
    together = engine_of(folders["arpg"]).generate(requests)
    for request, tokens in zip(requests, together, strict=True):
        assert np.array_equal(tokens, alone(folders["arpg"], request))


def test_the_one_that_writes_the_prefix_may_leave(folders: dict[str, Path]) -> None:
    """When the donor ends, another sequence writes the rows, and the rest share with that one."""
    known = dict.fromkeys(range(63), 1)
    requests = [replace(INPAINT, seed=seed, fixed_tokens=known) for seed in range(3)]
    engine = engine_of(folders["arpg"], max_rows=10)
    ids = [engine.add(request) for request in requests]
    engine.step()
    engine.abort(ids[0])
    drawn: dict[Any, Any] = {}
    while not engine.idle:
        drawn |= {update.id: update.tokens for update in engine.step() if update.finished}
    assert set(drawn) == set(ids[1:])
    for number in (1, 2):
        assert drawn[ids[number]] == (alone(folders["arpg"], requests[number]).flat[63],)


@pytest.mark.parametrize("unknown", [1, 3])
def test_what_is_drawn_in_one_step_shares_as_well(folders: dict[str, Path], unknown: int) -> None:
    """The last step writes no rows that another sequence could need."""
    known = dict.fromkeys(range(64 - unknown), 1)
    engine = engine_of(folders["arpg"])
    engine.generate([replace(INPAINT, seed=seed, fixed_tokens=known, steps=1) for seed in range(5)])
    stats = engine.stats()
    assert stats.rows_total == 2 * (1 + len(known) + 5 * unknown)
    assert stats.steps_total <= 4


def test_others_pass_while_a_prefix_is_written(folders: dict[str, Path]) -> None:
    known = dict.fromkeys(range(63), 1)
    engine = engine_of(folders["arpg"])
    first, second = (engine.add(replace(INPAINT, seed=seed, fixed_tokens=known)) for seed in (1, 2))
    other = engine.add(Request(class_label=0, steps=1))
    engine.step()
    running = {d.id for d in engine._scheduler.running}
    waiting = {d.id for d in engine._scheduler.waiting}
    assert (running | waiting) - {other} == {first, second}
    assert waiting == {second}


@pytest.mark.parametrize("other", [replace(INPAINT, class_label=2), replace(INPAINT, fixed_tokens={**KNOWN, 0: 9})])
def test_nothing_is_shared_by_what_starts_otherwise(folders: dict[str, Path], other: Request) -> None:
    engine = engine_of(folders["arpg"])
    engine.generate([INPAINT, other])
    assert engine.stats().rows_shared_total == 0


def test_grids_of_another_size_share_nothing(folders: dict[str, Path]) -> None:
    """Their rotary angles differ."""
    engine = engine_of(folders["arpg"])
    wide = replace(INPAINT, grid=(8, 12), rope_scaling="interpolate")
    tokens = engine.generate([replace(wide, fixed_tokens=KNOWN), replace(wide, rope_scaling="extrapolate"), INPAINT])
    assert [t.shape for t in tokens] == [(8, 12), (8, 12), (8, 8)]
    assert engine.stats().rows_shared_total == 0


@pytest.mark.parametrize("family", ["arpg", "llamagen", "par"])
@pytest.mark.parametrize("step", [1, 5])
def test_a_fork_shares_the_parents_first_steps_live_or_rebuilt(
    folders: dict[str, Path], family: str, step: int
) -> None:
    parent = Request(class_label=1, seed=3, steps=9, guidance_scale=3.0)
    if family == "arpg":
        parent = replace(parent, fixed_tokens=KNOWN)
    whole = alone(folders[family], parent)
    tokens = {cell: int(token) for cell, token in enumerate(whole.flat) if cell not in parent.fixed_tokens}

    engine = engine_of(folders[family])
    engine.add(parent)
    so_far: dict[int, int] = {}
    for update in (update for _ in range(100) if len(so_far) < 64 for update in engine.step()):
        so_far |= dict(zip(update.positions, update.tokens, strict=True))
        if update.step == step + 2:
            break
    children = [engine.fork(parent, so_far, step, seed) for seed in (11, 12)]
    assert children == [engine.fork(parent, tokens, step, seed) for seed in (11, 12)]
    live = engine.generate(children)
    assert (engine.stats().rows_shared_total > 0) == (step == 5 or bool(parent.fixed_tokens))
    shared = children[0].replayed_tokens
    assert shared
    assert all(so_far[cell] == token for cell, token in shared.items())
    for child, drawn in zip(children, live, strict=True):
        assert np.array_equal(drawn, alone(folders[family], child)), "live and rebuilt differ"
        assert all(drawn.flat[cell] == token for cell, token in shared.items())
    assert not np.array_equal(live[0], live[1])
    assert not np.array_equal(live[0], whole)


def test_forks_before_the_last_step_share_as_well(folders: dict[str, Path]) -> None:
    """They don't wait for rows that will not be written."""
    parent = Request(class_label=1, seed=3, steps=9, guidance_scale=3.0)
    engine = engine_of(folders["arpg"])
    [whole] = engine.generate([parent])
    tokens = dict(enumerate(whole.ravel().tolist()))
    before = engine.stats()
    forks = [engine.fork(parent, tokens, 8, seed) for seed in range(6)]
    drawn = engine.generate(forks)
    after = engine.stats()
    assert after.steps_total - before.steps_total <= 10
    assert after.rows_shared_total - before.rows_shared_total > 0
    for fork, alike in zip(forks, drawn, strict=True):
        assert np.array_equal(alike, alone(folders["arpg"], fork))


def test_a_fork_with_the_parents_seed_ends_as_the_parent(folders: dict[str, Path]) -> None:
    """The rebuilt cache equals the parent's: from any step the rest of the picture is the same."""
    parent = Request(class_label=1, seed=3, steps=9, guidance_scale=3.0)
    for family, folder in folders.items():
        engine = engine_of(folder)
        [whole] = engine.generate([parent])
        tokens = dict(enumerate(whole.ravel().tolist()))
        forks = [engine.fork(parent, tokens, step, parent.seed) for step in (1, 4, 8)]
        assert all(np.array_equal(tokens, whole) for tokens in engine.generate(forks)), family


def test_a_forks_updates_go_on_with_the_parents_count(folders: dict[str, Path]) -> None:
    parent = Request(class_label=1, seed=3, steps=9)
    engine = engine_of(folders["arpg"])
    [whole] = engine.generate([parent])
    child = engine.fork(parent, dict(enumerate(whole.ravel().tolist())), 6, 1)
    engine.add(child)
    updates = [update for _ in range(20) for update in engine.step()]
    assert [update.step for update in updates] == [7, 8, 9]
    assert {update.steps for update in updates} == {9}
    assert updates[0].n_done == len(child.replayed_tokens) + len(updates[0].positions)
    assert updates[-1].n_done == updates[-1].n_total == 64


@pytest.mark.parametrize("step", [0, 9, 10])
def test_a_fork_needs_a_step_before_the_last(folders: dict[str, Path], step: int) -> None:
    engine = engine_of(folders["arpg"])
    with pytest.raises(RequestError, match=r"^step: must be between 1 and 8"):
        engine.fork(Request(steps=9), dict.fromkeys(range(64), 0), step, 1)


def test_a_fork_needs_the_tokens_of_its_step(folders: dict[str, Path]) -> None:
    engine = engine_of(folders["arpg"])
    with pytest.raises(RequestError, match="has not drawn step 3 yet"):
        engine.fork(Request(steps=9), {}, 3, 1)


def test_drawn_tokens_are_those_of_whole_steps(folders: dict[str, Path]) -> None:
    engine = engine_of(folders["arpg"])
    cells = engine._plan(Request(steps=9)).steps[0].targets
    with pytest.raises(RequestError, match=r"^replayed_tokens: the positions are not those of the first steps"):
        engine.add(Request(steps=9, replayed_tokens=dict.fromkeys(cells[:-1], 0)))
