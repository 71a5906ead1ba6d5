"""A request whose logits are not finite is given up, and no other request notices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import engine.core.engine as core
from engine import Engine, EngineConfig, Request
from engine.attention.batch import Rows
from engine.editing.windows import WindowedGeneration, generate_windowed
from engine.ops.cpu import CompiledOperations
from engine.ops.operations import Operations
from engine.ops.reference import TorchOperations
from engine.ops.sampling import NO_TOKEN
from engine.request import EMPTY, Window
from tests.engine.gpu.fake import FakeDevice
from tests.engine.gpu.test_graphs import graphs_on
from tests.support.tiny import random_folder

BROKEN = 2
"""The class whose embedding is not finite."""


@pytest.fixture(scope="module", params=["arpg", "llamagen"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"), family=request.param, n_layer=2, grid=(4, 4))


def load(folder: Path) -> Engine:
    """With room for three requests, so that the next ones get pages that the broken ones have written to."""
    engine = Engine.load(folder, device="cpu", config=EngineConfig(cache_tokens=192, check_every_step=True))
    [condition, *_] = engine._plan(Request(class_label=BROKEN)).conditions
    assert isinstance(condition.source, int)
    with torch.inference_mode():
        engine._runner.forward_pass.embeddings[condition.source] = torch.inf
    return engine


@pytest.mark.parametrize("runner", ["a CPU's", "torch alone", "graphs"])
def test_it_is_named_and_alone_and_its_pages_spoil_nobody(
    folder: Path, runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [Request(class_label=1, seed=seed, steps=4 + seed, guidance_scale=1 + seed % 2) for seed in range(6)]
    expected = load(folder).generate(good)
    if runner == "graphs":
        monkeypatch.setattr(core, "runner_on", graphs_on(FakeDevice()))
    if runner == "torch alone":
        monkeypatch.setattr(core, "choose_operations", lambda *_, **__: TorchOperations())
    engine = load(folder)
    requests = list(good)
    for at, steps in ((1, 9), (3, 1), (5, 2), (6, 9)):  # in one step, the error comes when it is retired already
        requests.insert(at, Request(class_label=BROKEN, seed=at, steps=steps))
    ids = [engine.add(request) for request in requests]
    canvases, errors = {id: np.full(16, EMPTY) for id in ids}, {}
    while not engine.idle:
        for output in engine.step():
            assert output.id not in errors, "nothing follows an error"
            canvases[output.id][list(output.positions)] = output.tokens
            if output.error is not None:
                errors[output.id] = output.error
                assert not output.finished
    broken = [id for id, request in zip(ids, requests, strict=True) if request.class_label == BROKEN]
    assert sorted(errors) == broken
    for id, error in errors.items():
        assert isinstance(error, FloatingPointError)
        assert str(error).startswith(f"request {id}: the logits of step 1 are not finite")
    drawn = [canvases[id] for id in ids if id not in broken]
    assert all(np.array_equal(ours, theirs.ravel()) for ours, theirs in zip(drawn, expected, strict=True))
    assert engine.stats().pages_used == 0


def test_generate_raises_its_error_and_leaves_nothing_behind(folder: Path) -> None:
    engine, good = load(folder), Request(class_label=1, seed=1, steps=8)
    with pytest.raises(FloatingPointError, match="request 1: the logits"):
        engine.generate([good, replace(good, class_label=BROKEN)])
    assert engine.step() == []
    assert engine.idle
    assert np.array_equal(engine.generate([good]), load(folder).generate([good]))


def test_windows_end_with_its_error(folder: Path) -> None:
    engine, canvas = load(folder), np.full((4, 4), EMPTY)
    generation = WindowedGeneration(Request(class_label=BROKEN), canvas, [Window(0, 0, 4)], (4, 4))
    with pytest.raises(FloatingPointError, match="not finite"):
        generate_windowed(engine, [generation])


@pytest.mark.parametrize("kind", [TorchOperations, CompiledOperations])
def test_a_row_that_carries_no_token_reads_within_the_table(kind: Callable[[], Operations]) -> None:
    """A GPU computes the next step before the error is known."""
    nothing, table = torch.zeros(1, dtype=torch.int32), torch.ones(3, 8)
    rows = Rows(torch.tensor([-2], dtype=torch.int32), nothing, nothing, nothing, None)  # type: ignore[arg-type]
    embedded = kind().embed(rows, torch.tensor([NO_TOKEN], dtype=torch.int32), table)
    assert torch.equal(embedded, table[:1])
