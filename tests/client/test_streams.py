"""Event streams through connections that are cut, servers that restart, and requests whose answer is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import client as package
from service.client import Client, Completed, Event, Queued, Started, Tokens
from service.settings import Settings
from tests.api.test_answers import meanwhile
from tests.client.conftest import Open
from tests.client.cutting import cutting
from tests.support.api import Api, running_api, spec_of
from tests.support.waiting import eventually

STARTED = {"attempt": 1, "images": 1, "grid": [4, 4], "steps": 2, "known": 0}


def drawn(api: Api, steps: int = 4) -> tuple[str, list[Event]]:
    """A finished job and its events."""
    with Client(api.url) as client:
        job = client.generate()
        api.draw(api.claim(), steps=steps)
        return job.id, list(client.events(job))


def test_events_have_types(api: Api, connect: Open) -> None:
    job, _ = drawn(api, steps=2)
    events = list(connect(api.url).events(job))
    assert [type(event) for event in events] == [Queued, Started, Tokens, Tokens, Completed]
    _, started, first, _, completed = events
    assert (started.attempt, started.grid, started.steps) == (1, (4, 4), 2)
    assert (first.positions, first.n_done, first.n_total) == (tuple(range(8)), 8, 16)
    assert completed.images[0].url.endswith(f"{job}/images/0")
    assert [event.last for event in events] == [False] * 4 + [True]


def test_a_stream_is_resumed_after_any_event(api: Api, connect: Open) -> None:
    job, events = drawn(api)
    client = connect(api.url)
    for index, event in enumerate(events):
        assert list(client.events(job, after=event.id)) == events[index + 1 :]


@pytest.fixture(scope="module")
def done(module_api: Api) -> tuple[str, list[Event]]:
    """A finished job and its events."""
    return drawn(module_api)


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 2500), max_size=8))
def test_connections_that_are_cut_anywhere_lose_and_repeat_no_event(
    module_api: Api, done: tuple[str, list[Event]], cuts: list[int]
) -> None:
    job, events = done
    with pytest.MonkeyPatch.context() as patch, cutting(module_api.url, *cuts) as proxy, Client(proxy.url) as client:
        patch.setattr("service.client.retries.FIRST_PAUSE", 0.0)
        assert list(client.events(job)) == events


def test_both_clients_resume_a_stream_that_is_cut(api: Api, connect: Open, quick: None) -> None:
    job, events = drawn(api)
    with cutting(api.url, 0, 300, 700, 900) as proxy:
        assert list(connect(proxy.url).events(job)) == events
        assert proxy.made == 5


def test_a_stream_that_never_comes_back_ends_with_the_reason(api: Api, connect: Open, quick: None) -> None:
    job = api.generate()["id"]
    with cutting(api.url, *[0] * 20) as proxy:
        with pytest.raises(package.APIConnectionError, match="was lost"):
            list(connect(proxy.url, max_reconnects=3).events(job))
        assert proxy.made == 4
    with pytest.raises(package.APIConnectionError, match=r"no server answers at http://127\.0\.0\.1.*arpg serve"):
        list(connect(proxy.url, max_reconnects=1).events(job))


def test_a_request_whose_answer_is_lost_makes_one_job(api: Api, connect: Open, quick: None) -> None:
    with cutting(api.url, 0, 20) as proxy:
        job = connect(proxy.url).generate(seed=11)
    listed = api.client.get("/v1/jobs", params={"status": "queued"}).json()["jobs"]
    assert [one["id"] for one in listed] == [job.id]
    with cutting(api.url, *[0] * 5) as proxy, pytest.raises(package.APIConnectionError):
        connect(proxy.url, max_retries=1).generate()


@pytest.fixture
def brief(redis_socket: Path) -> Iterator[Api]:
    """Its streams live for a moment."""
    address = f"unix://{redis_socket}"
    own = Settings(redis_url=address, namespace="brief", stream_life=0.3, heartbeat=0.1, _env_file=None)
    with running_api(own) as api:
        api.show_card()
        yield api
        api.empty()


def test_a_server_that_asks_to_reconnect_is_asked_again(brief: Api, connect: Open) -> None:
    client = connect(brief.url, max_reconnects=0)
    job, claim = client.generate(), brief.claim()
    brief.publish(claim, 1, "started", STARTED)
    labels = {"method": "GET", "route": "/v1/jobs/{id}/events", "status": "200"}

    def finish() -> None:
        ended = "arpg_http_requests_total"
        assert eventually(lambda: (brief.metrics.registry.get_sample_value(ended, labels) or 0) >= 2), "no second one"
        brief.finish(claim, 2, [*spec_of(claim).seeds])

    with meanwhile(finish):
        assert [event.name for event in client.events(job)] == ["queued", "started", "completed"]


def test_a_stream_goes_on_at_another_replica_of_the_server(redis_socket: Path, connect: Open, quick: None) -> None:
    """The first replica closes, and the address then leads to the second."""
    own = Settings(redis_url=f"unix://{redis_socket}", namespace="replicas", _env_file=None)
    with running_api(own) as second, contextlib.ExitStack() as first_life:
        first = first_life.enter_context(running_api(own))
        second.show_card()
        job, claim = second.generate()["id"], second.claim()
        with cutting(first.url) as proxy:
            names = []
            for event in connect(proxy.url, max_reconnects=50).events(job):
                names.append(event.name)
                if event.name == "queued":
                    proxy.lead_to(second.url)
                    first_life.close()
                    second.publish(claim, 1, "started", STARTED)
                    second.finish(claim, 2, [*spec_of(claim).seeds])
            assert names == ["queued", "started", "completed"]
            assert proxy.made > 1


def test_leaving_a_stream_early_closes_its_connection(api: Api, connect: Open) -> None:
    client = connect(api.url)
    events = client.events(api.generate()["id"])
    assert next(events).name == "queued"
    events.close()
    assert eventually(lambda: "arpg_http_streams 0.0" in api.client.get("/metrics").text), "a stream is open"
