"""A client lists its own jobs, page by page, the newest first."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.jobs import NewJob
from tests.support.api import Api
from tests.support.keys import Keyed, code


def pages(api: Api, **query: Any) -> list[dict[str, Any]]:
    """All jobs that the list has."""
    found: list[dict[str, Any]] = []
    while True:
        page = api.client.get("/v1/jobs", params=query).json()
        found += page["jobs"]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


def test_the_list_has_each_job_once_with_what_a_client_looks_for(api: Api) -> None:
    before = len(pages(api))
    made = [api.generate(**{"class": "sphere", "n": 2}) for _ in range(5)]
    claim = api.claim()
    api.draw(claim)
    listed = pages(api, limit=2)
    assert len(listed) == before + 5
    assert [job["id"] for job in listed[:5]] == [job["id"] for job in reversed(made)]
    whole = api.client.get(made[0]["urls"]["self"]).json()
    shown = listed[4]
    assert shown["images"] == [image["url"] for image in whole["images"]]
    same = shown.keys() - {"images", "n"}
    assert {name: shown[name] for name in same} == {name: whole[name] for name in same}
    assert (shown["n"], shown["status"], shown["class_name"]) == (2, "succeeded", "sphere")
    assert [job["position"] for job in listed[:5]] == [3, 2, 1, 0, None]
    assert [job["id"] for job in pages(api, status="queued")] == [job["id"] for job in made[:0:-1]]
    assert made[0]["id"] in {job["id"] for job in pages(api, status="succeeded", limit=1)}
    response = api.client.get("/v1/jobs", params={"limit": 1})
    assert (len(response.json()["jobs"]), response.headers["cache-control"]) == (1, "no-store")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"cursor": "next"}, "cursor"),
        ({"cursor": "-1"}, "cursor"),
        ({"status": "done"}, "status"),
    ],
)
def test_a_wrong_query_is_told_by_name(api: Api, query: dict[str, str], field: str) -> None:
    response = api.client.get("/v1/jobs", params=query)
    [error] = response.json()["errors"]
    assert (response.status_code, error["in"], error["field"]) == (422, "query", field)


def test_a_client_lists_its_own_jobs_alone(keyed: Keyed) -> None:
    ann, bob = (keyed.ask(who, "POST", "/v1/generate", json={}).json()["id"] for who in ("ann", "bob"))

    def listed(who: str | None) -> httpx.Response:
        return keyed.ask(who, "GET", "/v1/jobs")

    assert [job["id"] for job in listed("ann").json()["jobs"]] == [ann]
    assert [job["id"] for job in listed("bob").json()["jobs"]] == [bob]
    assert code(listed(None)) == (401, "key_needed")
    assert code(listed("ops")) == (403, "scope_needed")


def test_a_job_of_an_older_version_is_listed_with_what_is_known(api: Api) -> None:
    new = NewJob(id="00000000-older", model="hand", cost=1, spec="{}")
    api.queue(lambda queue, _, __: queue.submit(new))
    [shown] = [job for job in pages(api, status="queued") if job["id"] == new.id]
    assert (shown["model"], shown["status"], shown["task"], shown["n"]) == ("hand", "queued", None, None)
    assert shown["images"] == []
