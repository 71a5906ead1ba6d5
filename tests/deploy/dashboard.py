"""What Grafana's dashboard and Prometheus' rules ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import REPOSITORY

PROMETHEUS = REPOSITORY / "deploy/prometheus"
DASHBOARD = REPOSITORY / "deploy/grafana/dashboards/arpg.json"
RULES = ("recording.yml", "alerts.yml")

_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"|#.*')
"""What is no name of a metric: strings and comments."""

_NAME = re.compile(r"\b(?:arpg_\w+|process_\w+|\w+:arpg_\w+:\w+)")
_LABELS = re.compile(r"\bby \(([^)]*)\)|[{,]\s*(\w+)\s*(?:=~|!~|!=|=)")
_RECORD = re.compile(r"^\s*- record: (\S+)$", re.MULTILINE)
_BESIDE = frozenset({"le", "job", "instance", "alertname", "alertstate"})
"""Labels that Prometheus adds, or that only buckets have."""


@dataclass(frozen=True, slots=True)
class Panel:
    """queries: each expression, with the pattern of its legend."""

    row: str
    title: str
    description: str
    unit: str
    place: tuple[int, int, int, int]  # x, y, width, height
    queries: tuple[tuple[str, str], ...]


def panels() -> list[Panel]:
    """In their order. Collapsed rows hold no panels of their own here."""
    found, row = [], ""
    for panel in document()["panels"]:
        place = panel["gridPos"]
        if panel["type"] == "row":
            row = panel["title"]
            continue
        queries = tuple((target["expr"], target["legendFormat"]) for target in panel["targets"])
        unit = panel["fieldConfig"]["defaults"]["unit"]
        where = (place["x"], place["y"], place["w"], place["h"])
        found.append(Panel(row, panel["title"], panel["description"], unit, where, queries))
    return found


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def filled(expression: str, *, interval: str, model: str = ".*") -> str:
    """With a value for each of Grafana's variables."""
    return expression.replace("$__rate_interval", interval).replace("$model", model)


def expressions() -> Iterator[str]:
    """All of the dashboard."""
    for panel in panels():
        for expression, _ in panel.queries:
            yield filled(expression, interval="5m")


def recorded() -> set[str]:
    """The series that rules record."""
    return set(_RECORD.findall((PROMETHEUS / "recording.yml").read_text()))


def missing(exported: str) -> list[str]:
    """Metrics that the dashboard or a rule names and nothing exports, and labels that no metric beside them has.

    exported: a scrape of the service, in Prometheus' text format."""
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exported):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    rules = [(PROMETHEUS / name).read_text() for name in RULES]
    found = [name for rule in rules for name in _NAME.findall(_TEXT.sub("", rule)) if name not in labels]
    for expression in expressions():
        names = _NAME.findall(_TEXT.sub('""', expression))
        found += [name for name in names if name not in labels]
        if any(name in recorded() for name in names):
            continue
        known = _BESIDE.union(*(labels.get(name, set()) for name in names))
        asked = (label.strip() for groups in _LABELS.findall(expression) for label in ",".join(groups).split(","))
        found += [f"{label} in {expression}" for label in asked if label and label not in known]
    return sorted(set(found) - recorded())
