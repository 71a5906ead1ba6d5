"""Workloads, the open loop, and the commands. No speed is asserted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from engine import Engine, Request
from engine.bench.__main__ import main
from engine.bench.measures.host import host_time
from engine.bench.measures.memory import cache_use
from engine.bench.measures.phases import PHASES, milliseconds_a_step
from engine.bench.open_loop import BatchDrawer, EngineDrawer, latencies, sustained_rate
from engine.bench.pairs import Comparison
from engine.bench.static_batch.loop import StaticBatchLoop, settings_of
from engine.bench.workload import equal, mix, mix_of, percentile, poisson
from tests.support.tiny import random_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.load(folder, device="cpu")


def test_the_mix_has_as_many_settings_as_asked_for(engine: Engine) -> None:
    requests = mix_of(engine.model, 32, 24)
    assert len(requests) == 32
    assert len({settings_of(request) for request in requests}) == 24
    assert mix(engine.model, 5, seed=1) == mix(engine.model, 5, seed=1) != mix(engine.model, 5, seed=2)
    assert len({settings_of(request) for request in equal(engine.model, 5, 8)}) == 1


def test_arrivals_are_one_a_second_on_average() -> None:
    moments = poisson(2000)
    assert all(before < after for before, after in pairwise(moments))
    assert 0.9 < moments[-1] / 2000 < 1.1


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile(range(1, 101), 0.95) == 95
    assert percentile([3.0], 0.95) == 3
    assert percentile([1, 2], 0.5) == 1


def test_a_ratio_above_one_says_that_the_engine_is_faster() -> None:
    found = Comparison(name="four", images=4, baseline=(2.0, 2.0, 4.0), engine=(1.0, 2.0, 1.0)).to_json()
    assert found["ratio"] == {"median": 2, "least": 1, "most": 4}
    assert (found["baseline_images_per_second"], found["engine_images_per_second"]) == (2, 4)


SLOW, FAST = Request(steps=20), Request(steps=10)


def test_a_batch_holds_the_requests_of_a_group_that_are_there(folder: Path) -> None:
    loop = StaticBatchLoop.load(folder)
    drawn: list[int] = []

    def cost(batch: Sequence[Request]) -> float:
        drawn.append(len(batch))
        return 1.0

    taken = latencies(BatchDrawer(loop, 0.0, cost), [FAST, FAST, SLOW, FAST], [0.0, 0.5, 0.6, 0.7])
    assert drawn == [1, 2, 1]
    assert taken == pytest.approx([1.0, 1.5, 2.4, 1.3])


def test_a_batch_waits_for_more_requests(folder: Path) -> None:
    loop = StaticBatchLoop.load(folder)
    taken = latencies(BatchDrawer(loop, 0.5, lambda batch: 1.0), [FAST, FAST, SLOW], [0.0, 0.4, 9.0])
    assert taken == pytest.approx([1.5, 1.1, 1.5])


def test_a_run_ends_as_soon_as_too_many_requests_are_late(folder: Path) -> None:
    drawer = BatchDrawer(StaticBatchLoop.load(folder), 0.0, lambda batch: 1.0)
    assert latencies(drawer, [FAST, SLOW], [0.0, 0.0], limit=1.5) is None
    assert drawer.ready_at(7.0) == float("inf")


def test_the_sustained_rate_of_a_constant_drawer_is_its_own(folder: Path) -> None:
    """Requests of different settings, one a second when they come one by one: the limit is met up to that rate."""
    loop = StaticBatchLoop.load(folder)
    requests = [Request(steps=1 + index) for index in range(100)]
    evenly = [float(index) for index in range(100)]

    def rate(guess: float) -> float:
        return sustained_rate(lambda: BatchDrawer(loop, 0.0, lambda batch: 1.0), requests, evenly, 1.01, guess)

    assert rate(0.2) == pytest.approx(1.0, rel=0.05)
    assert rate(5.0) == pytest.approx(1.0, rel=0.05)
    assert rate(1000.0) == pytest.approx(1000 / 32)  # the search ends there


def test_the_engine_draws_arrivals_to_the_end(engine: Engine) -> None:
    requests = equal(engine.model, 6, 3)
    taken = latencies(EngineDrawer(engine), requests, [0.0, 0.0, 0.001, 0.002, 5.0, 9.0])
    assert taken is not None
    assert all(0 < one < 5 for one in taken)
    assert latencies(EngineDrawer(engine), requests, [0.0] * 6, limit=0.0) is None
    assert engine.idle


def test_phases_are_timed_and_the_engine_is_left_as_it_was(engine: Engine) -> None:
    requests = equal(engine.model, 2, 3)
    before = engine.generate(requests)
    phases = milliseconds_a_step(engine, requests)
    assert phases.keys() == PHASES.keys()
    assert all(spent > 0 for spent in phases.values())
    assert "step" not in vars(engine)
    assert all((one == other).all() for one, other in zip(before, engine.generate(requests), strict=True))


def test_the_cache_of_an_image_is_compared_with_the_least(engine: Engine) -> None:
    request = Request(class_label=1, steps=64)  # of 64 tokens: the last step draws one
    use = cache_use(engine, request, bytes_per_row=10)
    assert use.minimum == 2 * 64 * 10
    assert use.reserved == engine.cost(request) * 10


TINY = ["--device", "cpu", "--rounds", "1", "--equal", "2x3"]


def test_the_engines_figures_as_text_and_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    options = ["--only", "memory", "growth", "phases", "batches", "--mixed", "3", "--concurrency", "1", "--steps", "4"]
    assert main(["engine", "--model", str(folder), *TINY, *options, "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert "| 2 equal, 3 steps |" in said
    assert "| 3 mixed in 3 settings |" in said
    written = json.loads(file.read_text())
    assert written["environment"].keys() >= {"torch", "threads", "processor"}
    assert [one["pairs"] for one in written["engine"]["batches"]] == [1, 1]
    assert written["engine"]["growth"]["points"][0]["grid"] == [8, 8]


def test_arrivals_in_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--only", "arrivals", "--arrivals", "3"]
    assert main(["engine", "--model", str(folder), *TINY, *options]) == 0
    assert "| Poisson arrivals" in capsys.readouterr().out


def test_the_baseline_says_whether_its_tokens_are_the_engines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", "--model", str(folder), "--random-weights", *TINY]) == 0
    assert "0 of 256 tokens differ" in capsys.readouterr().out
    assert main(["baseline", "--model", "demo-llamagen", "--device", "cpu"]) == 1
    assert "draws arpg only" in capsys.readouterr().err


def test_rounding_and_batching(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--model", str(folder), "--device", "cpu", "--images", "2"]
    assert main(["flip-rate", *common, "--batch-invariant"]) == 0
    assert "0.0% of logits differ, 0 of 128 tokens flip" in capsys.readouterr().out
    assert main(["batching", *common, "--rounds", "1"]) == 0
    assert "2 images of 64 steps" in capsys.readouterr().out


def test_the_hosts_time_of_a_step_is_told_by_phase(folder: Path) -> None:
    lines = host_time(str(folder), 3).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == ["schedule", "pack", "stage", "commit", "all"]
    medians = [float(line.split("|")[2].split()[0]) for line in lines]
    assert max(medians[:-1]) < medians[-1] < 2 * sum(medians[:-1])
