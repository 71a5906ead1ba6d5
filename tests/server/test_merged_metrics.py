"""A scrape of `arpg serve` has the series of both processes, as if they were one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.merged_metrics import exposition
from service.metrics import Metrics


def test_equal_series_are_added_up_and_each_family_is_told_once() -> None:
    api, worker = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    api.requests.labels("generate", "canceled").inc(2)
    worker.requests.labels("generate", "canceled").inc(3)
    worker.requests.labels("inpaint", "succeeded").inc()
    worker.step_seconds.labels("demo").observe(0.02)
    worker.kv_pages_used.labels("demo").set(7)
    api.queue_depth.labels("demo").set(4)
    text = exposition(api.registry.collect(), worker.registry.collect()).decode()

    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    samples = {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}
    assert samples["arpg_requests_total", "canceled", "generate"] == 5
    assert samples["arpg_requests_total", "inpaint", "succeeded"] == 1
    assert samples["arpg_step_seconds_count", "demo"] == 1
    assert (samples["arpg_kv_pages_used", "demo"], samples["arpg_queue_depth", "demo"]) == (7, 4)


def test_memory_is_that_of_both_processes_and_the_start_the_earlier_one() -> None:
    registries = [Metrics(CollectorRegistry()).registry for _ in range(2)]

    def told(*several: CollectorRegistry) -> dict[str, float]:
        text = exposition(*(registry.collect() for registry in several)).decode()
        return {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}

    one, both = told(registries[0]), told(*registries)
    assert 1.9 < both["process_resident_memory_bytes"] / one["process_resident_memory_bytes"] < 2.1
    assert both["process_start_time_seconds"] == one["process_start_time_seconds"]
    assert both["process_max_fds"] == one["process_max_fds"]
