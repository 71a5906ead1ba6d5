"""Growth, shared keys and values, dtypes, and their plots. No speed is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine import Engine, Request
from engine.bench.__main__ import main
from engine.bench.measures import growth, shared_kv
from engine.bench.spread import Spread
from engine.core.engine import EngineConfig
from tests.support.tiny import random_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"), n_layer=6)


def test_growth_varies_one_setting_at_a_time() -> None:
    points = growth.cross((16, 64, (4, 4)), [1, 16], [8, 64], [(4, 4), (6, 6)])
    assert points == [(1, 64, (4, 4)), (16, 64, (4, 4)), (16, 8, (4, 4)), (16, 64, (6, 6))]


def test_a_spread_has_the_median_and_the_ends() -> None:
    assert Spread.of([3.0, 1.0, 5.0, 2.0]) == (2.5, 1.0, 5.0)
    assert str(Spread.of([3.0, 1.0, 2.0])) == "2.00 (1.00–3.00)"


def test_a_point_counts_the_steps_that_the_engine_took(folder: Path) -> None:
    """With a budget of 64 rows the four requests can't share all steps."""
    requests, steps = 4, 2
    engine = Engine.load(folder, device="cpu", config=EngineConfig(max_rows=64))
    point = growth.measure(engine, (requests, steps, (8, 8)), rounds=2)
    assert point.engine_steps > steps
    assert len(point.seconds) == 2
    assert point.step_milliseconds.median == pytest.approx(1000 * np.median(point.seconds) / point.engine_steps)
    assert point.tokens_per_second == pytest.approx(point.images_per_second.median * 64)


def test_with_keys_and_values_for_each_layer_the_tokens_are_the_same(folder: Path) -> None:
    """Each cross layer's set is a copy of the shared one, in a place of its own."""
    shared, per_layer = shared_kv.engines(folder, "cpu", torch.float32, EngineConfig())
    requests = [Request(class_label=1, seed=seed, steps=5) for seed in range(3)]
    for ours, theirs in zip(shared.generate(requests), per_layer.generate(requests), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert per_layer._cache.keys.shape[0] == 6
    written = per_layer._cache.keys[3:]
    assert written.any()
    assert (written == written[0]).all()


def test_the_bytes_of_shared_keys_and_values_are_those_of_their_layers(folder: Path) -> None:
    shared, per_layer = shared_kv.engines(folder, "cpu", torch.float32, EngineConfig())
    [one] = shared_kv.measure(shared, per_layer, [2], steps=3, rounds=1)
    assert (one.shared_bytes, one.per_layer_bytes) == (4 * one.shared_bytes // 4, 6 * one.shared_bytes // 4)
    assert one.engine_steps == 3
    assert one.to_json()["requests"] == 2


def test_a_model_that_shares_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match="demo-llamagen is no ARPG"):
        shared_kv.engines("demo-llamagen", "cpu", torch.float32, EngineConfig())


def test_growth_and_shared_kv_in_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    figures, plots = tmp_path / "figures.json", tmp_path / "plots.png"
    options = ["--only", "growth", "shared-kv", "--concurrency", "1", "2", "--steps", "2", "3"]
    options += ["--grid", "8x8", "12x12"]
    common = ["engine", "--model", str(folder), "--device", "cpu", "--rounds", "1", "--equal", "2x3"]
    assert main([*common, *options, "--json", str(figures), "--plots", str(plots)]) == 0
    said = capsys.readouterr().out
    assert "| 2 | 3 | 12x12 |" in said
    written = json.loads(figures.read_text())["engine"]
    assert written["growth"]["centre"] == {"concurrency": 2, "steps": 3, "grid": [8, 8]}
    assert [one["requests"] for one in written["shared-kv"]] == [1, 2]
    with Image.open(plots) as page:
        assert page.height > 0.8 * page.width  # three rows of panels
    assert main([*common, "--only", "memory", "--plots", str(plots)]) == 1
    assert "--plots needs --only" in capsys.readouterr().err


def test_bfloat16_is_measured_beside_float32(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    options = ["--rounds", "1", "--equal", "1x2", "--mixed", "0", "--dtype", "bfloat16", "--json", str(figures)]
    assert main(["engine", "--model", str(folder), "--device", "cpu", "--only", "dtypes", "memory", *options]) == 0
    assert "| | float32, images/s | bfloat16, images/s |" in capsys.readouterr().out
    written = json.loads(figures.read_text())["engine"]
    assert written["dtype"] == "bfloat16"
    assert written["memory"]["kv_cache"]["reserved"] % (2 * 4 * 64 * 2) == 0
