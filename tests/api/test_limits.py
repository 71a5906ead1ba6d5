"""How much a client may ask: rates, quotas, open requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.support.api import Api, frames, noise, png, running_api
from tests.support.keys import new_key
from tests.support.waiting import eventually

LIMITS: dict[str, dict[str, Any]] = {
    "ann": {"rate": 0},
    "fast": {"rate": 5},
    "few": {"quota": 2, "rate": 0},
    "plain": {},
}


@pytest.fixture(scope="module")
def limited(redis_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, dict[str, str]]]:
    path = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    texts = {name: new_key(path, name, **limits) for name, limits in LIMITS.items()}
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="limited", keys_file=path, client_requests=2, heartbeat=0.2,
        _env_file=None,
    )  # fmt: skip
    with running_api(settings, texts["ann"]) as api:
        api.show_card()
        yield api, texts


@pytest.fixture
def keyed(limited: tuple[Api, dict[str, str]]) -> Iterator[tuple[Api, dict[str, str]]]:
    yield limited
    limited[0].empty()


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


# ---- rates ---------------------------------------------------------------------------------------------------------


def test_a_rate_is_told_and_when_it_is_used_up_the_client_hears_for_how_long(
    keyed: tuple[Api, dict[str, str]],
) -> None:
    api, texts = keyed
    answers = [httpx.get(f"{api.url}/v1/models", headers=bearer(texts["fast"])) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert [answer.headers["ratelimit"].partition(";t=")[0] for answer in answers[:5]] == [
        f'"requests";r={left}' for left in (4, 3, 2, 1, 0)
    ]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=5;w=60'}
    refused = answers[-1]
    assert refused.json()["code"] == "rate_limited"
    assert refused.headers["content-type"] == "application/problem+json"
    assert 10 <= int(refused.headers["retry-after"]) <= 12
    # Everybody else is as before, and what is open stays open.
    assert httpx.get(f"{api.url}/v1/models", headers=bearer(texts["plain"])).status_code == 200
    assert httpx.get(f"{api.url}/healthz", headers=bearer(texts["fast"])).status_code == 200


def test_a_key_without_a_rate_has_the_usual_one_and_0_is_none(keyed: tuple[Api, dict[str, str]]) -> None:
    api, texts = keyed
    plain = httpx.get(f"{api.url}/v1/models", headers=bearer(texts["plain"]))
    assert plain.headers["ratelimit-policy"] == '"requests";q=600;w=60'
    assert "ratelimit" not in api.client.get("/v1/models").headers


def test_without_keys_a_rate_is_an_addresss_and_off_unless_asked_for(redis_socket: Path, api: Api) -> None:
    assert "ratelimit" not in api.client.get("/v1/models").headers
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="by-address", rate=2, _env_file=None)
    with running_api(settings) as other:
        assert [other.client.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
        elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=elsewhere, base_url=other.url) as far:
            assert far.get("/v1/models").status_code == 200


# ---- quotas --------------------------------------------------------------------------------------------------------


def test_a_quota_counts_what_waits_and_runs_and_gives_back_what_ended(keyed: tuple[Api, dict[str, str]]) -> None:
    api, texts = keyed
    headers = bearer(texts["few"])

    def ask() -> httpx.Response:
        return httpx.post(f"{api.url}/v1/generate", headers=headers, json={})

    assert [ask().status_code for _ in range(2)] == [202, 202]
    refused = ask()
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert refused.headers["retry-after"].isdigit()
    claim = api.claim()
    assert ask().status_code == 429  # one runs, one waits
    assert api.client.post("/v1/generate", json={}).status_code == 202  # another client
    api.draw(claim)
    assert ask().status_code == 202


def test_a_refused_job_leaves_its_uploads_nowhere(keyed: tuple[Api, dict[str, str]]) -> None:
    api, texts = keyed
    files = {"image": png(noise(16, 16))}

    def ask() -> int:
        return httpx.post(f"{api.url}/v1/vary", headers=bearer(texts["few"]), files=files).status_code

    assert [ask(), ask()] == [202, 202]
    before = api.queue(lambda _, __, blobs: blobs.bytes_used())
    assert ask() == 429
    assert api.queue(lambda _, __, blobs: blobs.bytes_used()) == before


def test_without_a_place_for_the_job_its_pictures_are_not_even_looked_at(
    redis_socket: Path, keyed: tuple[Api, dict[str, str]]
) -> None:
    api, texts = keyed
    headers, broken = bearer(texts["few"]), {"image": b"no picture"}
    assert httpx.post(f"{api.url}/v1/vary", headers=headers, files=broken).status_code == 415
    for _ in range(2):
        assert httpx.post(f"{api.url}/v1/generate", headers=headers, json={}).status_code == 202
    refused = httpx.post(f"{api.url}/v1/vary", headers=headers, files=broken)
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert refused.headers["retry-after"].isdigit()
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="narrow", max_queued=1, _env_file=None)
    with running_api(settings) as narrow:
        narrow.show_card()
        narrow.generate()
        refused = narrow.client.post("/v1/outpaint", data={"left": "8"}, files=broken)
        assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
        assert refused.headers["retry-after"].isdigit()
        narrow.empty()


# ---- uploads -------------------------------------------------------------------------------------------------------


def test_uploads_of_one_client_leave_room_and_the_refusal_says_how_much(
    redis_socket: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("uploads") / "keys.jsonl"
    texts = {name: new_key(path, name, rate=0) for name in ("ann", "ben")}
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="uploads", keys_file=path, blob_bytes=2**20, _env_file=None
    )
    with running_api(settings, texts["ann"]) as api:
        api.show_card()

        def send(name: str, side: int) -> httpx.Response:
            files = {"image": png(noise(side, side))}
            return httpx.post(f"{api.url}/v1/vary", headers=bearer(texts[name]), files=files)

        both = {"image": png(noise(292, 292)), "mask": png(noise(292, 292, channels=1))}
        refused = api.client.post("/v1/inpaint", files=both)  # more than a client may ever have
        [error] = refused.json()["errors"]
        assert (refused.status_code, error["field"], error["code"]) == (413, "image", "too_large")
        assert error["message"].startswith("image and mask take ")
        assert error["message"].endswith(" this server has 262144 for the uploads of a client: send a smaller picture")
        first, second = [send("ann", 200) for _ in range(2)]  # 120 kB each
        assert (first.status_code, second.status_code) == (202, 202)
        refused = send("ann", 200)
        assert (refused.status_code, refused.json()["code"]) == (429, "upload_quota_exceeded")
        assert refused.headers["retry-after"].isdigit()
        assert "that they may take now: wait until some of these jobs are done" in refused.json()["detail"]
        assert send("ben", 200).status_code == 202
        assert api.client.delete(first.json()["urls"]["self"]).status_code == 200
        assert send("ann", 150).status_code == 202
        api.empty()


# ---- open requests -------------------------------------------------------------------------------------------------


def test_a_client_has_so_many_requests_open_and_no_more(keyed: tuple[Api, dict[str, str]]) -> None:
    api, texts = keyed
    headers = bearer(texts["plain"])
    with httpx.Client(base_url=api.url, headers=headers, timeout=10) as client:
        job = client.post("/v1/generate", json={}).json()
        with client.stream("GET", job["urls"]["events"]) as one, client.stream("GET", job["urls"]["events"]) as two:
            held = [frames(stream.iter_lines()) for stream in (one, two)]
            for stream in held:
                next(stream)
            refused = client.get("/v1/models")
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_open")
            assert refused.headers["retry-after"] == "1"
            assert api.client.get("/v1/models").status_code == 200  # another client
        assert eventually(lambda: client.get("/v1/models").status_code == 200), "what was closed still counts"
