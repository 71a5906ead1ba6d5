"""The dashboard as Grafana provisions it."""

from __future__ import annotations

import re
from itertools import combinations

from tests.deploy.dashboard import Panel, document, missing, panels
from tests.support.processes import REPOSITORY

ROWS = ("Service", "Queue", "Engine and batching", "KV cache and memory", "Models", "Failures")


def overlap(one: Panel, other: Panel) -> bool:
    (x, y, width, height), (u, v, wide, high) = one.place, other.place
    return x < u + wide and u < x + width and y < v + high and v < y + height


def test_its_rows_and_panels_are_in_order_and_do_not_overlap() -> None:
    found = panels()
    assert tuple(dict.fromkeys(panel.row for panel in found)) == ROWS
    assert [(a.title, b.title) for a, b in combinations(found, 2) if overlap(a, b)] == []
    assert all(panel.place[0] + panel.place[2] <= 24 for panel in found)
    ids = [panel["id"] for panel in document()["panels"]]
    assert len(ids) == len(set(ids))
    assert len({panel.title for panel in found}) == len(found)


def test_each_panel_says_what_it_shows() -> None:
    for panel in panels():
        assert panel.description.endswith("."), panel.title
        assert panel.unit in ("s", "short", "bytes", "reqps", "percentunit"), panel.title
        assert panel.queries, panel.title
        assert all(legend for _, legend in panel.queries), panel.title


def test_grafana_and_prometheus_find_their_files_in_compose() -> None:
    compose = (REPOSITORY / "docker-compose.yml").read_text()
    mounts = dict(re.findall(r'[-"] ?"?\./(deploy/[\w/]+):(/[\w/]+):ro', compose))
    assert {path: (REPOSITORY / path).is_dir() for path in mounts} == dict.fromkeys(mounts, True)
    assert mounts["deploy/prometheus"] == "/etc/prometheus"
    provider = (REPOSITORY / "deploy/grafana/provisioning/dashboards/arpg.yml").read_text()
    assert f"path: {mounts['deploy/grafana/dashboards']}" in provider
    source = (REPOSITORY / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text()
    [default] = re.findall(r"uid: (\w+)", source)
    chosen = [one for one in document()["templating"]["list"] if one["type"] == "datasource"]
    assert [one["current"]["value"] for one in chosen] == [default]
    assert {panel["datasource"]["uid"] for panel in document()["panels"] if panel["type"] != "row"} == {"$datasource"}


def test_a_metric_that_nothing_exports_is_found() -> None:
    assert "arpg_images_total" in missing("")
    assert "arpg_images_total" not in missing('arpg_images_total{model="demo"} 1\n')
    assert any(one.startswith("model in ") and "arpg_images_total" in one for one in missing("arpg_images_total 1\n"))
