"""GET /v1/events: several jobs on one connection, each with its own ids, order and end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.api import Api, frames, spec_of


def followed(api: Api, *jobs: str) -> list[dict[str, Any]]:
    with api.client.stream("GET", "/v1/events", params={"job": jobs}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(frames(response.iter_lines()))


def of(job: str, events: list[dict[str, Any]]) -> list[str]:
    """Names of one job's events, in order."""
    return [event["event"] for event in events if event.get("id", "").startswith(f"{job}@")]


def test_all_events_of_all_jobs_come_on_one_connection_each_in_its_order(api: Api) -> None:
    first, second = (api.generate(n=1)["id"] for _ in range(2))
    with api.client.stream("GET", "/v1/events", params={"job": [first, second]}) as response:
        events = frames(response.iter_lines())
        told = [next(events), next(events)]
        assert {event["id"].partition("@")[0] for event in told} == {first, second}
        for claim in (api.claim(), api.claim()):  # the second job is drawn while the first has ended
            api.draw(claim)
        told += list(events)
    for job in (first, second):
        assert of(job, told) == ["queued", "started", "tokens", "tokens", "completed"]
    # As in the job's own stream, down to the addresses of its pictures.
    own = list(frames(api.client.get(f"/v1/jobs/{first}/events").iter_lines()))
    mine = [event for event in told if event["id"].startswith(f"{first}@")]
    assert [event["data"] for event in mine] == [event["data"] for event in own]
    assert [event["id"] for event in mine] == [f"{first}@{event['id']}" for event in own]


def test_each_job_continues_after_the_event_that_its_reader_has(api: Api) -> None:
    first, second = (api.generate(n=1)["id"] for _ in range(2))
    for claim in (api.claim(), api.claim()):
        api.draw(claim)
    told = followed(api, first, second)
    third = next(event["id"] for event in told if event["id"].startswith(first) and event["event"] == "tokens")
    again = followed(api, third, second)
    assert of(first, again) == ["tokens", "completed"]
    assert len(of(second, again)) == 5
    ends = [event["id"] for event in told if event["event"] == "completed"]
    assert api.client.get("/v1/events", params={"job": ends}).status_code == 204, "there is nothing more to tell"


def test_a_job_that_is_gone_does_not_end_the_events_of_the_others(api: Api) -> None:
    job = api.generate(n=1)["id"]
    claim = api.claim()
    api.finish(claim, 1, [*spec_of(claim).seeds])
    told = followed(api, "nobody", job)
    [error] = [event for event in told if event["event"] == "error"]
    assert "id" not in error
    assert (error["data"]["job"], error["data"]["detail"]) == ("nobody", "there is no job with this id")
    assert of(job, told)[-1] == "completed"


@pytest.mark.parametrize("jobs", [[], ["a@b@1-1"], ["a@one"], ["x" * 65], [f"job-{k}" for k in range(65)]])
def test_what_names_no_jobs_is_refused(api: Api, jobs: list[str]) -> None:
    response = api.client.get("/v1/events", params={"job": jobs})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"].startswith("job")


def test_the_list_estimates_when_a_job_ends(api: Api) -> None:
    id = api.generate(n=1)["id"]
    claim = api.claim()
    # So many steps that the job is not late by its own pace, however slowly it is asked for.
    steps, sequence = 10**6, 1
    api.publish(claim, 1, "started", {"attempt": 1, "images": 1, "grid": [4, 4], "steps": steps, "known": 0})

    def eta() -> float | None:
        [listed] = [job for job in api.client.get("/v1/jobs").json()["jobs"] if job["id"] == id]
        found: float | None = listed["eta_seconds"]
        return found

    while (eta() or 0) < 100:  # the jobs before took less
        assert sequence < 16
        told = {"image_index": 0, "step": sequence, "steps": steps, "positions": [0], "tokens": [0]}
        api.publish(claim, sequence + 1, "tokens", told | {"n_done": sequence, "n_total": 16})
        sequence += 1
    assert sequence >= 3, "one step tells no pace"
    api.finish(claim, sequence + 1, [*spec_of(claim).seeds])
    assert eta() is None
