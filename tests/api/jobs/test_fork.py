"""POST /v1/jobs/{id}/fork: what the worker gets of the parent, running or finished; what is refused and how."""

from __future__ import annotations

import dataclasses
from typing import Any

import httpx
import numpy as np
import pytest

from engine.noise import image_seed
from service.jobs import Claim, Job, Queue
from service.jobs.spec import ForkOrigin
from tests.api.jobs.test_jobs import finished
from tests.support.api import CARD, Api, noise, png, spec_of
from tests.support.waiting import eventually

TOKENS = (np.arange(16) % 8).reshape(4, 4)
MASK = np.zeros((32, 32), dtype=np.uint8)
MASK[:, 20:] = 255
IMAGE = noise(32, 32, seed=50)


def origin(claim: Claim) -> ForkOrigin:
    fork = spec_of(claim).fork
    assert fork is not None
    return fork


def fork(api: Api, job: str, **fields: Any) -> httpx.Response:
    return api.client.post(f"/v1/jobs/{job}/fork", json=fields)


def refusal(response: httpx.Response) -> tuple[int, str, str]:
    [error] = response.json()["errors"]
    return response.status_code, error["field"], error["code"]


def tell(api: Api, claim: Any, sequence: int, image: int, step: int, positions: list[int]) -> None:
    data = {"image_index": image, "step": step, "steps": 4, "positions": positions, "n_done": 0, "n_total": 16}
    api.publish(claim, sequence, "tokens", data | {"tokens": [int(TOKENS.flat[p]) for p in positions]})


def stored(api: Api, name: str) -> bytes:
    data = api.queue(lambda _, __, blobs: blobs.get(name))
    assert data is not None
    return data


def test_a_fork_of_a_finished_picture_takes_all_but_the_seeds_from_its_parent(api: Api) -> None:
    parent = finished(api, n=2, seed=5, steps=7, temperature=0.5, **{"class": "tree"})
    response = fork(api, parent["id"], step=1, n=3, image_index=1, seed=77)
    assert response.status_code == 202, response.text
    job = response.json()
    assert job["fork"] == {"job": parent["id"], "image": 1, "step": 1}
    assert job["request"] == parent["request"] | {"n": 3, "seed": 77}
    assert (job["task"], job["model"], job["class_name"]) == ("generate", "hand", "tree")
    claim = api.claim()
    assert [*spec_of(claim).seeds] == [image_seed(77, i) for i in range(3)]
    assert origin(claim).seeds == ((1, image_seed(5, 1)),)
    assert np.array_equal(origin(claim).replayed, TOKENS)
    assert claim.cost == 96
    api.draw(claim)

    # What a fork of that shares with it at that step, is its parent's.
    assert fork(api, job["id"], step=1, image_index=2).status_code == 202
    claim = api.claim()
    assert origin(claim).seeds == ((1, image_seed(5, 1)),)
    api.draw(claim)


def test_a_fork_of_a_running_picture_has_what_it_has_drawn_so_far(api: Api) -> None:
    parent = api.generate(n=2, seed=5)
    claim = api.claim()
    assert refusal(fork(api, parent["id"], step=1)) == (409, "step", "not_reached_yet")
    tell(api, claim, 1, 0, 1, [3, 2])
    tell(api, claim, 2, 1, 1, [8, 9])
    tell(api, claim, 3, 1, 3, [1, 0, 7])  # of two steps: what waits is said at once
    assert refusal(fork(api, parent["id"], step=2)) == (409, "step", "not_reached_yet")
    response = fork(api, parent["id"], step=3, image_index=1)
    assert response.status_code == 202, response.text
    api.draw(claim)
    claim = api.claim()
    drawn = np.full(16, -1)
    drawn[[8, 9, 1, 0, 7]] = TOKENS.ravel()[[8, 9, 1, 0, 7]]
    assert np.array_equal(origin(claim).replayed, drawn.reshape(4, 4))
    api.draw(claim)


def test_the_attempts_of_a_parent_are_not_mixed(api: Api) -> None:
    parent = api.generate()
    first = api.claim()
    tell(api, first, 1, 0, 2, [0, 1, 2])
    api.queue(lambda q, _, __: q.release(first.id, first.attempt))
    second = api.claim()
    assert second.attempt == 2
    tell(api, second, 1, 0, 1, [15])
    assert fork(api, parent["id"], step=2).status_code == 202
    assert fork(api, parent["id"], step=1).status_code == 202
    api.draw(second)
    for _ in range(2):
        claim = api.claim()
        assert np.flatnonzero(origin(claim).replayed >= 0).tolist() == [0, 1, 2]
        api.draw(claim)


@pytest.mark.parametrize("feather", [0, 2])
@pytest.mark.parametrize("when", ["running", "finished"])
def test_a_fork_of_an_inpainting_has_uploads_of_its_own(api: Api, when: str, feather: int) -> None:
    files = {"image": png(IMAGE), "mask": png(MASK)}
    parent = api.client.post("/v1/inpaint", data={"feather": str(feather)}, files=files).json()
    first = api.claim()
    uploads = [stored(api, spec_of(first).blobs[name]) for name in ("image", "mask")]
    if when == "running":
        tell(api, first, 1, 0, 1, [2])
        assert fork(api, parent["id"], step=1).status_code == 202
        api.finish(first, 2, [*spec_of(first).seeds])
    else:
        api.finish(first, 2, [*spec_of(first).seeds])
        for name, data in zip(("image", "mask"), uploads, strict=True):  # a real worker says which ones to keep
            api.put_blob(spec_of(first).blobs[name], data)
        assert fork(api, parent["id"], step=1).status_code == 202
    second = api.claim()
    assert all(spec_of(first).blobs[name] != spec_of(second).blobs[name] for name in ("image", "mask"))
    image, mask = (stored(api, spec_of(second).blobs[name]) for name in ("image", "mask"))
    # Outside of its mask and without a border that is blended, a finished picture is the upload.
    result = stored(api, f"{parent['id']}/result/0")
    assert image == (result if (when, feather) == ("finished", 0) else uploads[0])
    assert mask == uploads[1]
    carried = spec_of(second).picture_tokens
    assert (carried is not None) == (when == "finished")
    if carried is not None:
        assert np.array_equal(carried, TOKENS)
    assert spec_of(second).request["feather"] == feather
    api.finish(second, 1, [*spec_of(second).seeds])


def test_a_parent_that_ends_while_it_is_forked_is_forked_all_the_same(api: Api) -> None:
    files = {"image": png(IMAGE), "mask": png(MASK)}
    parent = api.client.post("/v1/inpaint", files=files).json()
    first = api.claim()
    tell(api, first, 1, 0, 1, [2])
    mask = stored(api, spec_of(first).blobs["mask"])
    running = api.queue(lambda q, _, __: q.job(parent["id"]))
    api.finish(first, 2, [*spec_of(first).seeds])
    api.queue(lambda _, __, blobs: blobs.put(spec_of(first).blobs["mask"], mask or b""))
    real, asked = Queue.job, []

    async def stale(self: Queue, job_id: str) -> Job | None:
        asked.append(job_id)
        return running if len(asked) == 1 else await real(self, job_id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Queue, "job", stale)
        assert fork(api, parent["id"], step=1).status_code == 202
    second = api.claim()
    assert stored(api, spec_of(second).blobs["image"]) == stored(api, f"{parent['id']}/result/0")
    api.finish(second, 1, [*spec_of(second).seeds])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "step"), ({"step": 0}, "step"), ({"step": 2}, "step"), ({"step": 1.5}, "step"), ({"step": 9**9}, "step"),
        ({"step": 1, "n": 17}, "n"), ({"step": 1, "image_index": 1}, "image_index"), ({"step": 1, "seed": -1}, "seed"),
        ({"step": 1, "model": "other"}, "model"),
    ],
)  # fmt: skip
def test_a_bad_fork_is_refused_by_field(api: Api, fields: dict[str, Any], field: str) -> None:
    parent = finished(api)  # in two steps
    status, name, _ = refusal(fork(api, parent["id"], **fields))
    assert (status, name) == (422, field)
    assert api.queue(lambda q, _, __: q.depth("hand")) == 0


def test_only_what_draws_or_has_drawn_can_be_forked(api: Api) -> None:
    assert fork(api, "nobody", step=1).status_code == 404
    waiting = api.generate()
    assert fork(api, waiting["id"], step=1).status_code == 409
    api.client.delete(waiting["urls"]["cancel"])
    assert fork(api, waiting["id"], step=1).status_code == 409
    for route, fields in (
        ("expand", {"width": 64, "height": 32, "method": "windowed"}),
        ("outpaint", {"left": "8"}),
    ):
        sent: dict[str, Any] = {"json": fields}
        if route == "outpaint":
            sent = {"data": fields, "files": {"image": png(IMAGE)}}
        job = api.client.post(f"/v1/{route}", **sent).json()
        claim = api.claim()
        api.finish(claim, 1, [*spec_of(claim).seeds])
        assert refusal(fork(api, job["id"], step=1)) == (422, "step", "windowed")
    job = api.client.post("/v1/expand", json={"width": 64, "height": 32, "method": "interpolate"}).json()
    claim = api.claim()
    api.finish(claim, 1, [*spec_of(claim).seeds])
    assert fork(api, job["id"], step=1).status_code == 202


def test_the_same_key_makes_one_fork(api: Api) -> None:
    parent, other = finished(api), finished(api)
    key = {"Idempotency-Key": "fork-1"}
    path, fields = f"/v1/jobs/{parent['id']}/fork", {"step": 1}
    first = api.client.post(path, json=fields, headers=key)
    assert api.client.post(path, json=fields, headers=key).json()["id"] == first.json()["id"]
    again = api.client.post(f"/v1/jobs/{other['id']}/fork", json=fields, headers=key)
    assert (again.status_code, again.json()["code"]) == (422, "key_reused")


@pytest.mark.parametrize(("made", "refusal"), [(None, (404, "unknown_job")), (2.0**30, (410, "expired"))])
def test_a_fork_repeated_with_its_key_is_known_though_its_parent_is_gone(
    api: Api, monkeypatch: pytest.MonkeyPatch, made: float | None, refusal: tuple[int, str]
) -> None:
    if made is not None:
        monkeypatch.setattr("service.api.create_job.time.time", lambda: made)
    parent = finished(api)
    monkeypatch.undo()
    sent: dict[str, Any] = {"json": {"step": 1}, "headers": {"Idempotency-Key": f"orphan-{made}"}}
    path = f"/v1/jobs/{parent['id']}/fork"
    first = api.client.post(path, **sent).json()
    prefix = api.settings.queue_config.prefix
    api.queue(lambda q, _, __: q.redis.delete(f"{prefix}job:{parent['id']}"))
    again = api.client.post(path, **sent)
    assert (again.status_code, again.json()["id"]) == (202, first["id"])
    api.draw(api.claim())
    again = api.client.post(path, **sent)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (200, first["id"], "succeeded")
    unknown = api.client.post(path, json={"step": 1})
    assert (unknown.status_code, unknown.json()["code"]) == refusal


def test_a_fork_of_what_another_tokenizer_drew_is_refused(api: Api) -> None:
    parent = api.generate()
    api.draw(api.claim(), tokenizer="u" * 16)
    refused = fork(api, parent["id"], step=1)
    assert (refused.status_code, refused.json()["code"]) == (409, "other_tokenizer")


def test_a_fork_goes_on_only_from_what_the_model_of_now_drew(api: Api) -> None:
    """A running job may have attempts of several models with one name."""
    parent = api.generate(steps=4)
    for attempt, weights in ((1, "0" * 16), (2, "1" * 16)):
        claim = api.claim()
        assert claim.attempt == attempt
        began = {"attempt": attempt, "images": 1, "grid": [4, 4], "steps": 4, "known": 0, "weights": weights}
        api.publish(claim, 1, "started", began)
        tell(api, claim, 2, 0, 3 - attempt, list(range(8)))
        if attempt == 1:
            api.show_card(dataclasses.replace(CARD, weights="1" * 16))
            assert eventually(lambda: fork(api, parent["id"], step=1).status_code == 409)
            assert fork(api, parent["id"], step=1).json()["code"] == "other_weights"
            assert api.queue(lambda q, _, __: q.release(parent["id"], 1)) == "ok"
    # Step 2 is the other model's.
    assert eventually(lambda: "errors" in fork(api, parent["id"], step=2).json())  # attempt 2 has begun
    assert refusal(fork(api, parent["id"], step=2)) == (409, "step", "not_reached_yet")
    api.show_card()
    api.finish(claim, 3, [*spec_of(claim).seeds])


def test_a_picture_of_one_step_says_that_it_has_nothing_to_fork(api: Api) -> None:
    parent = api.generate(steps=1)
    claim = api.claim()
    done = {"image_index": 0, "step": 1, "steps": 1, "positions": list(range(16)), "n_done": 16, "n_total": 16}
    api.publish(claim, 1, "tokens", done | {"tokens": TOKENS.ravel().tolist()})
    response = fork(api, parent["id"], step=1)
    assert refusal(response) == (422, "step", "step")
    assert "a picture of one step can't be forked" in response.json()["detail"]
    api.finish(claim, 2, [*spec_of(claim).seeds])
