"""`arpg bench serve`: what it sends, and what it makes of the answers."""

from __future__ import annotations

import json
import os
import threading
from itertools import islice
from pathlib import Path

import pytest

from service.bench import closed_loop, open_loop
from service.bench.cpu import seconds_by_part
from service.bench.figures import percentiles, spread
from service.bench.mix import DEFAULT, Mix
from service.bench.process import Served
from service.worker.threads.background import show_name
from tests.support.serve import serving
from tests.support.tiny import random_folder


def test_the_default_mix_is_drawn_evenly_and_repeats_with_its_seed() -> None:
    mix = Mix.read(DEFAULT, classes=10)
    drawn = list(islice(mix.draw(1), 3000))
    assert drawn == list(islice(mix.draw(1), 3000))
    assert drawn[:9] != list(islice(mix.draw(2), 9))
    for name, values in {"steps": 6, "guidance_scale": 3, "schedule": 2}.items():
        counts = [sum(request.body[name] == value for request in drawn) for value in {r.body[name] for r in drawn}]
        assert len(counts) == values
        assert all(count == pytest.approx(3000 / values, rel=0.25) for count in counts)
    assert {request.body["class"] for request in drawn} == set(range(10))
    assert len({request.kind for request in mix.one_of_each(1)}) == 36


def test_arrivals_come_at_their_rate() -> None:
    moments = [moment for moment, _ in Mix.equal(8, classes=2).arrivals(1, rate=50.0, seconds=40.0)]
    assert moments == sorted(moments)
    assert len(moments) == pytest.approx(2000, rel=0.1)
    assert moments[-1] <= 40.0


def test_percentiles_are_measured_values() -> None:
    assert percentiles(range(1, 101)) == {"count": 100, "p50": 50, "p95": 95, "p99": 99}
    assert percentiles([7.0]) == {"count": 1, "p50": 7.0, "p95": 7.0, "p99": 7.0}
    assert percentiles([]) == {"count": 0}
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0}


@pytest.mark.skipif(not Path("/proc/thread-self/comm").exists(), reason="needs Linux")
def test_processor_time_is_told_by_thread() -> None:
    over, seen = threading.Event(), threading.Event()

    def work() -> None:
        show_name()
        while seconds_by_part(os.getpid())["codec"] < 0.05:
            json.dumps(list(range(10000)))
        seen.set()
        over.wait()

    thread = threading.Thread(target=work, name="codec")
    thread.start()
    assert seen.wait(20)
    parts = seconds_by_part(os.getpid())
    over.set()
    thread.join()
    assert parts["codec"] >= 0.05
    assert parts["rest"] > 0
    assert parts["engine"] == 0


def test_both_loops_measure_a_service(tmp_path: Path) -> None:
    model = random_folder(tmp_path / "model", grid=(8, 8))
    mix = Mix(
        "two lengths", ({"weight": 1, "task": "generate", "fields": {"model": "random", "steps": [2, 4]}},), classes=3
    )
    with serving(tmp_path / "var", model) as server:
        served = Served(str(server.client.base_url), None, server.process.pid)
        assert served.classes("random") > 0
        assert closed_loop.run(served, list(islice(mix.draw(1), 6)), clients=3) > 0
        under_load = closed_loop.probe(served, mix, clients=2, pictures=30)
        assert under_load["healthz_ms"]["count"] == under_load["job_ms"]["count"]
        found = open_loop.sweep(served, mix, first_rate=4.0, seconds=1.0, most=2)
    assert len(found["lone_seconds"]) == 2
    [first, *_] = found["rates"]
    assert first["failed"] == 0
    assert first["end_to_end_seconds"]["count"] == first["requests"]
    assert 0 <= first["attained"] <= 1
