"""The rules, the dashboard's expressions and the metrics' names pass Prometheus' own checks."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.metrics import Metrics, SharedState, exposition
from tests.deploy.dashboard import PROMETHEUS, RULES, expressions
from tests.deploy.promtool import promtool
from tests.support.processes import REPOSITORY

ALERT = re.compile(r"^\s*- alert: (\w+)$", re.MULTILINE)


def test_the_configuration_and_its_rules_are_valid() -> None:
    assert "rule files" in promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


def test_the_rules_pass_their_unit_tests() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(PROMETHEUS / "rules_test.yml"))


def test_each_alert_has_a_unit_test_and_a_runbook() -> None:
    alerts = (PROMETHEUS / "alerts.yml").read_text()
    names = ALERT.findall(alerts)
    assert len(names) > 10
    tested = re.findall(r"^\s*- alertname: (\w+)$", (PROMETHEUS / "rules_test.yml").read_text(), re.MULTILINE)
    assert sorted(tested) == sorted(names)
    assert re.findall(r"runbook_url: (\S+)", alerts) == [f"docs/runbooks.md#{name.lower()}" for name in names]
    book = re.split(r"^## (\w+)$", (REPOSITORY / "docs/runbooks.md").read_text(), flags=re.MULTILINE)
    sections = dict(zip(book[1::2], book[2::2], strict=True))
    assert [*sections] == names
    for name, text in sections.items():
        assert re.findall(r"^\*\*(\w+ ?\w*)\.\*\*", text, re.MULTILINE) == ["Means", "Look at", "Do"], name


def test_prometheus_parses_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{index}", "expr": each} for index, each in enumerate(expressions())]
    file = tmp_path / "rules.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert len(rules) > 40
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


def test_what_every_replica_tells_is_never_added_up() -> None:
    """Each replica of the API exports all of the queue."""
    asked = [*expressions(), *((PROMETHEUS / name).read_text() for name in RULES)]
    uses = [(each[: found.start()], found[0]) for each in asked for found in re.finditer(r"arpg_queue_\w+", each)]
    of_redis = [(before, name) for before, name in uses if not before.endswith(":")]  # else: recorded, one series
    assert len(of_redis) > 10
    unsafe = [name for before, name in of_redis if not re.search(r"\bmax( by \(\w+\) )?\($", before)]
    assert unsafe == []


def test_promtool_finds_no_fault_with_the_metrics() -> None:
    metrics = Metrics(CollectorRegistry())
    for series in vars(metrics).values():  # promtool looks only at families that have a sample
        if isinstance(series, Counter | Gauge | Histogram) and series._labelnames:
            series.labels(*series._labelnames)
    metrics.model_info.labels("demo").info({"family": "arpg"})
    one = {"demo": 1}
    state = SharedState(waiting=one, running=one, oldest=one, workers=one, blobs={"uploads": 1}, blob_limit=1)
    text = exposition(metrics.registry.collect(), state.collect()).decode()
    assert promtool("check", "metrics", given=text) == ""
