"""Steps as graphs, on a device that counts: the same tokens, one copy a step, nothing to wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import engine.core.engine as core
from engine import Engine, EngineConfig, Request
from engine.attention.batch import Rows
from engine.attention.kv_cache import KVCache
from engine.core.graphs import GraphRunner
from engine.core.pages import PageAllocator
from engine.core.rotary_tables import RotaryTables
from engine.core.runner import Runner
from engine.core.scheduler import Scheduler
from engine.core.sequence import SequenceState
from engine.models import families
from engine.models.forward import forward_pass
from engine.ops.cpu import CompiledOperations
from engine.request import EMPTY, RequestOutput
from tests.engine.gpu.fake import FakeDevice
from tests.support.tiny import random_folder


class Poisoned(CompiledOperations):
    """Rows that are padding hold NaN from the first operation on."""

    def embed(self, rows: Rows, tokens: Tensor, table: Tensor) -> Tensor:
        return self._poison(super().embed(rows, tokens, table), rows)

    def cross_attention(self, q: Tensor, rows: Rows, cache: KVCache, layer: int) -> Tensor:
        return self._poison(super().cross_attention(q, rows, cache, layer), rows)

    def _poison(self, x: Tensor, rows: Rows) -> Tensor:
        x[int(rows.attention.starts.numpy()[-1]) :] = torch.nan
        return x


def graphs_on(device: FakeDevice) -> Callable[..., Runner]:
    def runner_on(place: torch.device, card: Any, plain: Runner, *, max_rows: int, max_running: int) -> Runner:
        plain.operations = Poisoned()
        with torch.inference_mode():
            network = plain.forward_pass.network
            plain.forward_pass = forward_pass(network, plain.operations, texts=max(2, max_running))
        rows = card.cached_rows(4 * card.positions)
        return GraphRunner(plain, device=device, max_rows=max_rows, max_running=max_running, branch_rows=rows)

    return runner_on


@pytest.fixture(scope="module", params=["arpg", "llamagen", "par"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"), family=request.param)


def load(folder: Path) -> Engine:
    config = EngineConfig(cache_tokens=6000, check_every_step=True, max_rows=256)
    return Engine.load(folder, device="cpu", config=config)


def requests_of(engine: Engine) -> list[Request]:
    plain = [
        Request(class_label=1, seed=1, steps=5),
        Request(class_label=2, seed=2, steps=9, guidance_scale=1, top_k=7),
        Request(seed=3, steps=3, temperature=0),
        Request(class_label=1, seed=4, steps=12, top_p=0.8),
    ]
    if "order" not in engine.model.settings:
        return plain
    known = {cell: cell % 50 for cell in range(40)}
    return [
        *plain,
        Request(class_label=1, seed=5, steps=4, fixed_tokens=known, task="inpaint"),
        Request(class_label=1, seed=6, steps=6, fixed_tokens=known, task="inpaint"),  # shares pages with the last
        Request(class_label=1, seed=7, steps=6, grid=(9, 11)),
        Request(class_label=1, seed=8, steps=3, grid=(17, 20)),  # more cells than the graphs serve
    ]


def drawn(engine: Engine, requests: list[Request]) -> list[np.ndarray]:
    """All tokens of requests that arrive one a step, from the outputs alone."""
    canvases: dict[int, np.ndarray] = {}
    waiting = list(requests)
    while waiting or not engine.idle:
        if waiting:
            request = waiting.pop(0)
            rows, cols = request.grid or engine.model.grid
            canvases[engine.add(request)] = np.full(rows * cols, EMPTY)
        for output in engine.step():
            canvases[output.id][list(output.positions)] = output.tokens
    return list(canvases.values())


def test_graphs_draw_the_same_tokens_and_padding_spoils_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(folder)
    expected = drawn(engine, requests_of(engine))
    device = FakeDevice()
    monkeypatch.setattr(core, "runner_on", graphs_on(device))
    found = drawn(load(folder), requests_of(engine))
    for request, tokens, others in zip(requests_of(engine), found, expected, strict=True):
        assert np.array_equal(tokens, others), request
    assert device.graphs >= 2


def test_a_step_is_dispatched_before_the_tokens_of_the_last_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    monkeypatch.setattr(core, "runner_on", graphs_on(device))
    engine = load(folder)
    engine.add(Request(class_label=1, seed=1, steps=20))
    for _ in range(4):
        engine.step()
    device.log.clear()
    [output] = engine.step()
    graphs = 2 if "order" in engine.model.settings else 1
    assert [event for event in device.log if event != "wait"] == ["upload", *["graph"] * graphs, "download", "read"]
    assert output.n_done < engine.step()[0].n_done


def test_aborted_requests_and_forks_of_running_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(class_label=1, seed=1, steps=8)
    [expected] = load(folder).generate([request])
    monkeypatch.setattr(core, "runner_on", graphs_on(FakeDevice()))
    engine = load(folder)
    kept, dropped = engine.add(request), engine.add(Request(class_label=2, seed=2, steps=8))
    tokens: dict[int, int] = {}
    while not engine.idle:
        outputs = engine.step()
        assert dropped not in [output.id for output in outputs] or len(tokens) < 3
        tokens |= _tokens(outputs, kept)
        if len(tokens) >= 3:
            engine.abort(dropped)
            dropped = -1
    assert [tokens[cell] for cell in range(len(tokens))] == expected.ravel().tolist()
    assert engine.stats().pages_used == 0
    fork = engine.fork(request, tokens, 2, seed=9)
    [image] = engine.generate([fork])
    assert all(image.ravel()[cell] == token for cell, token in fork.replayed_tokens.items())


def _tokens(outputs: list[RequestOutput], id: int) -> dict[int, int]:
    return {
        cell: token
        for output in outputs
        if output.id == id
        for cell, token in zip(output.positions, output.tokens, strict=True)
    }


@pytest.mark.parametrize("requests", [1, 16, 64])
def test_kernels_copies_and_waits_of_a_step_of_arpg_l(requests: int) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from engine.ops.gpu.operations import TritonOperations

    place, dtype = torch.device("meta"), torch.bfloat16
    with place:
        built = families.FAMILIES["arpg"]({"transformer": "L"}, (16, 16))
        network = built.network.to(dtype)
    device = FakeDevice("meta")
    operations = TritonOperations(device.kernels.launch)
    pages = 40 * 64
    cache = KVCache(network.kv_shape, pages, 16, device=place, dtype=dtype)
    rotary = RotaryTables(
        lambda grid, scaling: network.rotary(grid, grid, scaling).to(place), ((16, 16), "interpolate")
    )
    with torch.inference_mode():
        plain = Runner(forward_pass(network, operations), operations, cache, rotary)
        runner = GraphRunner(plain, device=device, max_rows=2048, max_running=256, branch_rows=4 * 256)
    scheduler = Scheduler(PageAllocator(pages), page_size=16, max_rows=2048)
    for seed in range(requests):
        request = Request(class_label=seed, seed=seed, steps=64, top_k=50 * (seed % 2))
        scheduler.add(SequenceState.begin(seed, request, built.plan(request), (16, 16)))
    for _ in range(6):
        sequences = scheduler.schedule()
        device.log.clear()
        device.kernels.names.clear()
        runner.run(sequences)
        for sequence in sequences:
            sequence.dispatch()
    assert Counter(device.log) == Counter(["upload", "graph", "graph", "download", "wait"])
    assert device.log.index("wait") == 0  # for a copy of three steps before
    assert len(sequences) == requests
    launched = Counter(device.kernels.names)
    assert launched.total() == 209, launched
    assert launched["attention_kernel"] == 24


def test_all_graphs_are_captured_before_the_first_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    monkeypatch.setattr(core, "runner_on", graphs_on(device))
    engine = load(folder)
    runner = engine._runner
    assert isinstance(runner, GraphRunner)
    runner.capture_all(filtered=False)
    captured = device.graphs
    engine.generate([Request(class_label=1, seed=seed, steps=12) for seed in range(9)])
    assert device.graphs == captured


class Full(FakeDevice):
    """Has no memory for a step, nor for the first half of it."""

    replays = 0

    def capture(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        replay = super().capture(compute)

        def full() -> Tensor:
            self.replays += 1
            if self.replays in (10, 11):
                raise torch.OutOfMemoryError("the device is full")
            return replay()

        return full


def test_a_full_device_divides_the_step_and_spares_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [Request(class_label=1, seed=seed, steps=7) for seed in range(6)]
    engine = load(folder)
    expected = engine.generate(requests)
    device = Full()
    monkeypatch.setattr(core, "runner_on", graphs_on(device))
    engine = load(folder)
    ids = [engine.add(request) for request in requests]
    outputs: list[RequestOutput] = []
    while not engine.idle:
        outputs += engine.step()
    assert device.replays > 11
    for id, tokens in zip(ids, expected, strict=True):
        found = _tokens(outputs, id)
        assert [found[cell] for cell in range(tokens.size)] == tokens.ravel().tolist()
    assert engine.stats().pages_used == 0


def test_tokens_of_aborted_requests_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    monkeypatch.setattr(core, "runner_on", graphs_on(device))
    engine = load(folder)
    request_id = engine.add(Request(class_label=1, seed=1, steps=9))
    engine.step()
    assert not engine.idle
    engine.abort(request_id)
    assert engine.step() == []
    assert "read" not in device.log
    assert engine.idle
