"""The static-batch loop draws the engine's tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import Engine, Request
from engine.bench.random_weights import random_folder as random_copy
from engine.bench.static_batch.loop import StaticBatchLoop, Unsuitable, grouped
from engine.bench.workload import mix_of
from tests.support.tiny import random_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"))


def check_equal(model: str | Path, requests: list[Request]) -> None:
    engine, loop = Engine.load(model, device="cpu"), StaticBatchLoop.load(model)
    for ours, theirs in zip(engine.generate(requests), loop.generate(requests), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps": 7, "schedule": "cosine", "guidance_schedule": "constant", "temperature": 0.7},
        {"steps": 200, "guidance_interval": 20},
        {"steps": 1},
        {"guidance_scale": 1.0},
        {"class_label": None},
    ],
)
def test_the_tokens_of_a_batch_are_the_engines(folder: Path, settings: dict[str, object]) -> None:
    one = replace(Request(class_label=1, steps=12), **settings)  # type: ignore[arg-type]
    label = one.class_label
    check_equal(folder, [replace(one, seed=seed, class_label=label and seed) for seed in (1, 2, 3)])


def test_requests_of_different_settings_are_drawn_in_groups(folder: Path) -> None:
    fast, slow = Request(class_label=1, steps=3), Request(class_label=2, steps=9)
    requests = [fast, slow, replace(fast, seed=5, order=tuple(reversed(range(64))))]
    assert grouped(requests) == [[0, 2], [1]]
    check_equal(folder, requests)


def test_the_demo_models_tokens_are_the_engines() -> None:
    """Its first cell is fixed."""
    card = Engine.load("demo", device="cpu").model
    requests = [replace(request, steps=8) for request in mix_of(card, 3, 2)]
    check_equal("demo", requests)


def test_settings_that_the_authors_have_not_are_refused(folder: Path) -> None:
    loop = StaticBatchLoop.load(folder)
    with pytest.raises(Unsuitable, match="equal settings"):
        loop.draw_batch([Request(steps=3), Request(steps=4)])
    with pytest.raises(Unsuitable, match="fixed_tokens"):
        loop.draw_batch([Request(fixed_tokens={0: 1})])
    with pytest.raises(Unsuitable, match="content_attention"):
        loop.draw_batch([Request(content_attention="causal")])
    with pytest.raises(Unsuitable, match="draws arpg only"):
        StaticBatchLoop.load("demo-llamagen")


def test_a_model_with_random_weights_draws(folder: Path, tmp_path: Path) -> None:
    copy = random_copy(folder, tmp_path / "copy")
    check_equal(copy, [Request(class_label=1, steps=3)])
