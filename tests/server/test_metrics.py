"""A scrape: in the format that the scraper asks for, and of `arpg serve` as if its two processes were one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from multiprocessing import Pipe

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics, exposition, negotiated, serve_metrics
from service.metrics.series import FAILURES, OUTCOMES
from service.metrics.worker_series import WorkerSeries
from service.server import worker_main
from service.settings import Settings

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 sends."""


def made() -> Metrics:
    return Metrics(CollectorRegistry())


def test_equal_series_are_added_up_and_each_family_is_told_once() -> None:
    api, worker = made(), made()
    for _ in range(2):
        api.count_end("demo", "generate", "canceled")
    for _ in range(3):
        worker.count_end("demo", "generate", "canceled")
    worker.count_end("demo", "inpaint", "failed", "not_finite")
    worker.step_seconds.labels("demo").observe(0.02)
    worker.kv_pages_used.labels("demo").set(7)
    text = exposition(api.registry.collect(), worker.registry.collect()).decode()

    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    samples = {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}
    assert samples["arpg_requests_total", "canceled", "demo", "generate"] == 5
    assert samples["arpg_requests_total", "demo", "failed", "inpaint"] == 1
    assert samples["arpg_job_failures_total", "demo", "not_finite"] == 1
    assert samples["arpg_step_seconds_count", "demo"] == 1
    assert samples["arpg_kv_pages_used", "demo"] == 7
    info = {key[0]: value for key, value in samples.items() if key[0].endswith("_info")}
    assert info == {"arpg_build_info": 1, "python_info": 1}


@given(st.lists(st.sampled_from(["draws", "answers", "is silent", "ends"])))
def test_counts_never_fall_when_a_worker_is_silent_or_replaced(course: list[str]) -> None:
    """What a worker counted after its last answer is lost with it."""
    series, worker, answered, present = WorkerSeries(), made(), 0, 0
    for what in course:
        if what == "draws":
            worker.count_end("demo", "generate", "succeeded")
            worker.step_seconds.labels("demo").observe(0.02)
            present += 1
            continue
        if what == "ends":
            series.worker_ended()
            worker, present = made(), 0
        elif what == "answers":
            worker.kv_pages_used.labels("demo").set(7)
            told = numbers(series.answered(worker.registry.collect()))
            answered, present = answered + present, 0
            assert told["arpg_kv_pages_used", "demo"] == 7
        told = numbers(series.unanswered())
        assert told.get(("arpg_requests_total", "demo", "generate", "succeeded"), 0) == answered
        assert told.get(("arpg_step_seconds_bucket", "+Inf", "demo"), 0) == answered
        assert ("arpg_kv_pages_used", "demo") not in told


def test_a_worker_answers_no_scrape_before_it_has_all_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer in between once told of a version without a name."""
    ours, theirs = Pipe()
    ours.send((Settings(_env_file=None), "redis://nowhere"))
    happened: list[str] = []

    def make(registry: CollectorRegistry) -> Metrics:
        time.sleep(0.05)  # a thread that is there already would answer now
        happened.append("made")
        return Metrics(registry)

    monkeypatch.setattr(worker_main, "Metrics", make)
    monkeypatch.setattr(worker_main, "_answer", lambda pipe, registry: happened.append("answers"))
    monkeypatch.setattr(worker_main, "set_up_logging", lambda settings: None)
    monkeypatch.setattr(worker_main, "run_worker", lambda *_, **__: 0)
    monkeypatch.setattr(sys, "argv", ["worker_main", str(os.dup(theirs.fileno())), "0"])
    assert worker_main.main() == 0
    assert happened[0] == "made"


def numbers(*processes: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """By name and the labels' values, in order."""
    families = text_string_to_metric_families(exposition(*processes).decode())
    return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


def test_memory_is_that_of_both_processes_and_the_start_the_earlier_one() -> None:
    registries = [made().registry for _ in range(2)]

    def told(*several: CollectorRegistry) -> dict[str, float]:
        text = exposition(*(registry.collect() for registry in several)).decode()
        return {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}

    one, both = told(registries[0]), told(*registries)
    assert 1.9 < both["process_resident_memory_bytes"] / one["process_resident_memory_bytes"] < 2.1
    assert both["process_start_time_seconds"] == one["process_start_time_seconds"]
    assert both["process_max_fds"] == one["process_max_fds"]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("text/plain;version=0.0.4;q=0.5", "text/plain; version=0.0.4"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0"),
        (PROMETHEUS, "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;version=nonsense", "text/plain; version=0.0.4"),
    ],
)
def test_openmetrics_is_negotiated_and_both_formats_tell_the_same(accept: str | None, kind: str) -> None:
    api, worker = made(), made()
    worker.know_model("demo", ("generate",))
    worker.step_seconds.labels("demo").observe(0.02)
    body, content_type = negotiated(accept, api.registry.collect(), worker.registry.collect())
    text = body.decode()
    assert content_type.startswith(kind)
    parse = open_metrics if "openmetrics" in kind else text_string_to_metric_families
    assert text.endswith("# EOF\n") == ("openmetrics" in kind)
    samples = [sample for family in parse(text) for sample in family.samples]
    told = {(s.name, frozenset(s.labels.values())): s.value for s in samples}
    for outcome in OUTCOMES:
        assert told["arpg_requests_total", frozenset(("demo", "generate", outcome))] == 0
    for code in FAILURES:
        assert told["arpg_job_failures_total", frozenset(("demo", code))] == 0
    assert told["arpg_step_seconds_count", frozenset(("demo",))] == 1
    assert [s.name for s in samples if s.name.endswith("_created")] == [], "Prometheus would store them"


@pytest.fixture
def port() -> Iterator[str]:
    """The port of `arpg worker`."""
    server, thread = serve_metrics(made(), "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_port_of_a_worker_answers_get_and_head_alike(port: str) -> None:
    for accept in ("*/*", PROMETHEUS):
        got, head = (httpx.request(method, f"{port}/metrics", headers={"Accept": accept}) for method in ("GET", "HEAD"))
        assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
        assert head.headers["vary"] == "Accept"
        assert int(head.headers["content-length"]) > 1000
        assert "arpg_build_info" in got.text or "# TYPE arpg_build info" in got.text
    refused = httpx.post(f"{port}/metrics")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert httpx.get(f"{port}/healthz").status_code == 404
