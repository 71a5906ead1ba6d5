"""Every value of every field of a request is drawn, or refused with the field at fault; so is every EngineConfig."""

from __future__ import annotations

from dataclasses import fields, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine import Engine, EngineConfig, Request, RequestError
from engine.plans import Plan
from engine.request import MAX_SEED, Window
from tests.support.tiny import random_folder

CELLS = 16

whole = st.one_of(
    st.integers(-3, 20), st.sampled_from([-(2**63), 2**31, 2**32, 2**63 - 1, 2**63, 2**64]), st.booleans()
)
of_numpy = st.sampled_from([np.int8(3), np.uint64(2**63), np.float16(0.5), np.float32("nan"), np.True_, np.str_("a")])
numbers = st.one_of(st.floats(), st.floats(0, 3), st.sampled_from([1e-45, 1e-320, Fraction(1, 2), Decimal(1), 1j]))
texts = st.one_of(
    st.sampled_from(["arccos", "cosine", "linear", "constant", "causal", "ntk", "\ud800", "x" * 101]), st.text()
)
scalars = st.one_of(st.none(), whole, of_numpy, numbers, texts, st.binary(max_size=3), st.just(object()))
cells = st.one_of(st.integers(-1, CELLS), scalars)
lists = st.one_of(st.permutations(range(CELLS)), st.lists(cells, max_size=4), st.just(range(CELLS)))
arrays = st.sampled_from([np.arange(CELLS), np.zeros((2, 2)), np.array(3), torch.arange(CELLS), np.array([2, 3])])
sides = st.one_of(st.integers(-1, 6), scalars)
windows = st.builds(Window, sides, sides, sides)
values = st.one_of(
    scalars,
    lists,
    lists.map(tuple),
    arrays,
    windows,
    st.dictionaries(cells, cells, max_size=3),
    st.tuples(sides, sides),
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load(random_folder(tmp_path_factory.mktemp("model"), n_layer=2, grid=(4, 4)))


def load(folder: Path, **config: Any) -> Engine:
    return Engine.load(folder, device="cpu", config=EngineConfig(**{"cache_tokens": 2048} | config))


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([field.name for field in fields(Request)]), values, min_size=1, max_size=3))
@example({"window": Window(-3, 0, 1)})
@example({"window": Window(0, 0, 3)})
@example({"class_label": "tree"})
@example({"steps": 2.5})
@example({"top_k": 2.5})
@example({"top_p": 1e-60})
@example({"grid": (8,)})
@example({"grid": np.array([2, 3])})
def test_a_request_is_drawn_or_refused_by_the_field_at_fault(engine: Engine, given: dict[str, Any]) -> None:
    request, refused = Request(**given), None
    try:
        [tokens] = engine.generate([request])
    except RequestError as error:
        refused = error
    assert engine.idle
    if refused is None:
        assert tokens.shape == ((4, 4) if request.grid is None else tuple(request.grid))
        assert tokens.min() >= 0
    else:
        assert refused.field in given
        assert str(refused).startswith(f"{refused.field}: ")
        assert len(str(refused)) < 300


@pytest.mark.parametrize(
    "name", ["class_label", "seed", "steps", "guidance_scale", "guidance_interval", "temperature", "top_k", "top_p"]
)
@pytest.mark.parametrize("value", [True, np.True_, "1", [1], pytest.param(10**5000, id="of 5000 digits")])
def test_a_bool_or_a_text_is_no_number(engine: Engine, name: str, value: Any) -> None:
    """Python writes no integer of more than 4,300 digits, and the message has to show it."""
    with pytest.raises(RequestError, match=f"^{name}: .*(must be (a number|an integer|between)|classes)"):
        engine.add(Request(**{name: value}))


def test_numbers_of_numpy_draw_as_those_of_python(engine: Engine) -> None:
    """Arithmetic on an int8 would overflow from 128 on."""
    plain = Request(
        class_label=2, seed=200, steps=100, guidance_scale=2.5, guidance_interval=90, temperature=0.5, top_k=7,
        top_p=0.75, order=tuple(range(100, 400)), fixed_tokens=dict.fromkeys(range(100), 9), grid=(20, 20),
        window=Window(100, 100, 120), guide_fixed_tokens=False,
    )  # fmt: skip
    of_numpy = Request(
        class_label=np.int8(2), seed=np.uint8(200), steps=np.int8(100), guidance_scale=np.float16(2.5),  # type: ignore[arg-type]
        guidance_interval=np.int8(90), temperature=np.float32(0.5), top_k=np.uint8(7), top_p=np.float16(0.75),  # type: ignore[arg-type]
        order=np.arange(100, 400, dtype=np.int16), grid=[np.int8(20), np.int8(20)],  # type: ignore[arg-type]
        fixed_tokens={np.int8(cell): np.uint8(9) for cell in range(100)},  # type: ignore[misc]
        window=Window(np.int8(100), np.int8(100), np.int8(120)), guide_fixed_tokens=np.False_,  # type: ignore[arg-type]
    )  # fmt: skip
    ours, theirs = engine.generate([plain, of_numpy])
    assert np.array_equal(ours, theirs)


def test_a_seed_takes_63_bits_and_each_of_them_counts(engine: Engine) -> None:
    low = 5
    seeds = [low, *(low + 2**bit for bit in (32, 48, 62)), MAX_SEED]
    drawn = engine.generate([Request(seed=seed) for seed in seeds])
    assert len({tokens.tobytes() for tokens in drawn}) == len(seeds)
    with pytest.raises(RequestError, match=r"seed: must be .* 9223372036854775807, got -1; .* random seed"):
        engine.add(Request(seed=-1))
    with pytest.raises(RequestError, match="seed: must be between 0"):
        engine.add(Request(seed=MAX_SEED + 1))


def test_the_smallest_top_p_leaves_the_likeliest_token(engine: Engine) -> None:
    """Rounded to float32 it is 0."""
    few, greedy = engine.generate([Request(seed=1, top_p=1e-60), Request(seed=1, temperature=0)])
    assert np.array_equal(few, greedy)


def test_what_a_fork_is_given_is_checked_too(engine: Engine) -> None:
    parent = Request(seed=1, steps=4)
    tokens = dict.fromkeys(range(CELLS), 1)
    for field, call in {
        "steps": (replace(parent, steps="4"), tokens, 1, 2),  # type: ignore[arg-type]
        "tokens": (parent, 7, 1, 2),
        "step": (parent, tokens, 2.0, 2),
        "seed": (parent, tokens, 1, -1),
    }.items():
        with pytest.raises(RequestError, match=f"^{field}: must"):
            engine.fork(*call)  # type: ignore[arg-type]


def test_an_idle_engine_ends_generate_with_an_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_of = engine._plan

    def without_an_end(request: Request) -> Plan:
        plan = plan_of(request)
        return replace(plan, steps=plan.steps[:-1])

    monkeypatch.setattr(engine, "_plan", without_an_end)
    with pytest.raises(RuntimeError, match="the engine is idle before"):
        engine.generate([Request()])


@given(st.sampled_from([field.name for field in fields(EngineConfig)]), values)
@example("cache_tokens", 0)
@example("page_size", 0)
@example("max_rows", -5)
@example("max_running", 2.5)
@example("cache_share", float("nan"))
@example("batch_invariant", 1)
@example("dtype", "float32")
def test_a_config_is_taken_or_refused_by_the_field_at_fault(name: str, value: Any) -> None:
    try:
        found = getattr(EngineConfig(**{name: value}), name)
    except ValueError as error:
        assert str(error).startswith(f"{name}: must")  # noqa: PT017
    else:
        assert found == value
        assert type(found) in (int, float, bool, type(None), torch.dtype)


def test_the_smallest_settings_draw_the_same(engine: Engine, tmp_path: Path) -> None:
    smallest = load(
        random_folder(tmp_path, n_layer=2, grid=(4, 4)), page_size=1, cache_tokens=40, max_rows=1, max_running=1
    )
    requests = [Request(class_label=1, seed=seed, temperature=0) for seed in range(2)]
    for ours, theirs in zip(smallest.generate(requests), engine.generate(requests), strict=True):
        assert np.array_equal(ours, theirs)
