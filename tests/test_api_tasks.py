"""POST /v1/generate and /v1/inpaint: what is accepted, what a worker gets, and every kind of answer."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from api_harness import CARD, Api, frames, noise, png
from PIL import Image

from engine.noise import image_seed
from service.images import Limits as ImageLimits
from service.images import decode_image, decode_mask

LIMITS = ImageLimits(10**6, 10**4)


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """`work` in a thread beside the block; what it raises is raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(20)
    if raised:
        raise raised[0]


def draw_next(api: Api) -> None:
    """Waits for a job and draws it."""
    deadline = time.monotonic() + 10
    while not api.queue(lambda q, _, __: q.depth("hand")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    api.draw(api.claim())


# ---- generate ------------------------------------------------------------------------------------------------------


def test_a_request_is_accepted_with_its_defaults_filled_in(api: Api) -> None:
    response = api.client.post("/v1/generate", json={"class": "mushroom"})
    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{job['id']}" == job["urls"]["self"]
    assert (job["status"], job["position"], job["task"], job["class_name"]) == ("queued", 0, "generate", "mushroom")
    request = job["request"]
    assert (request["class"], request["steps"], request["guidance_scale"], request["n"]) == (4, 8, 3.0, 1)
    claim = api.claim()
    assert claim.payload["seeds"] == [request["seed"]]
    assert {name: claim.payload[name] for name in ("task", "model", "class_label")} == {
        "task": "generate", "model": "hand", "class_label": 4
    }  # fmt: skip
    api.draw(claim)

    # The request as resolved may be sent again, and asks for the same pictures.
    again = api.generate(**request)
    assert again["request"] == request
    api.draw(api.claim())


def test_each_picture_of_a_job_has_its_own_seed(api: Api) -> None:
    job = api.generate(seed=5, n=3)
    claim = api.claim()
    assert claim.payload["seeds"] == [image_seed(5, index) for index in range(3)]
    api.draw(claim)
    images = api.client.get(job["urls"]["self"]).json()["images"]
    assert [image["seed"] for image in images] == claim.payload["seeds"]
    assert [image["url"] for image in images] == [f"{job['urls']['self']}/images/{i}" for i in range(3)]


@pytest.mark.parametrize("wanted", [0, "0", "sphere", "SPHERE", " Sphere ", "ball"])
def test_a_class_goes_by_label_name_and_synonym(api: Api, wanted: int | str) -> None:
    assert api.generate(**{"class": wanted})["request"]["class"] == 0
    api.draw(api.claim())


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("shpere", "sphere"), ("mushrom", "mushroom"), ("mush", "mushroom"), ("balls", "sphere"), ("conee", "cone"),
        (8, "labels run from 0 to 7"), (-1, "labels run from 0 to 7"), ("zzzz", "/classes"),
        ("--5", "/classes"), ("", "/classes"),
    ],
)  # fmt: skip
def test_an_unknown_class_is_answered_with_the_nearest(api: Api, wanted: int | str, says: str) -> None:
    response = api.client.post("/v1/generate", json={"class": wanted})
    assert response.status_code == 422
    [error] = response.json()["errors"]
    assert (error["field"], error["code"]) == ("class", "unknown_class")
    assert says in error["message"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"n": 0}, "n"), ({"n": 17}, "n"), ({"n": "2"}, "n"), ({"n": 1.5}, "n"), ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"), ({"steps": 0}, "steps"), ({"steps": 257}, "steps"), ({"steps": True}, "steps"),
        ({"schedule": "linear"}, "schedule"), ({"guidance_scale": -1}, "guidance_scale"),
        ({"guidance_schedule": "cosine"}, "guidance_schedule"), ({"temperature": -0.1}, "temperature"),
        ({"temperature": 1e9}, "temperature"), ({"top_k": -1}, "top_k"), ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"), ({"format": "gif"}, "format"), ({"quality": 0}, "quality"),
        ({"previews": -1}, "previews"), ({"order": [0, 1]}, "order"), ({"order": [0] * 16}, "order"),
        ({"order": list(range(1, 17))}, "order"), ({"order": [-1, *range(15)]}, "order[0]"),
        ({"class": [1]}, "class"), ({"class": True}, "class"), ({"model": "other"}, "model"),
        ({"class": None, "guidance_scale": 3}, "guidance_scale"), ({"colour": "red"}, "colour"),
        ({"mask": "x"}, "mask"),
    ],
)  # fmt: skip
def test_a_bad_field_is_refused_by_name(api: Api, fields: dict[str, Any], wrong: str) -> None:
    response = api.client.post("/v1/generate", json={"class": 1} | fields)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert wrong in [error["field"] for error in response.json()["errors"]]


def test_not_a_number_is_no_number(api: Api) -> None:
    body = '{"class": 1, "guidance_scale": NaN}'
    response = api.client.post("/v1/generate", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "guidance_scale")


def test_an_explicit_order_reaches_the_worker(api: Api) -> None:
    order = np.random.default_rng(0).permutation(16).tolist()
    api.generate(order=order)
    claim = api.claim()
    assert claim.payload["order"] == order
    api.draw(claim)


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        # 17 rows less the last step's tokens: 1 + 16 - 16 = 1 row, one page of 16, for each of two branches.
        ({"steps": 1}, 32),
        ({"steps": 16}, 32),  # 1 + 16 - 1 = 16 rows fill a page exactly
        ({"steps": 16, "guidance_scale": 1}, 16),
        ({"steps": 16, "class": None}, 16),
        ({"steps": 16, "n": 3}, 96),
    ],
)
def test_a_job_weighs_the_cache_that_it_will_hold(api: Api, fields: dict[str, Any], cost: int) -> None:
    api.generate(**{"class": 1} | fields)
    claim = api.claim()
    assert claim.cost == cost
    api.draw(claim)


# ---- kinds of answer -----------------------------------------------------------------------------------------------


def test_prefer_wait_answers_with_the_finished_job(api: Api) -> None:
    with meanwhile(lambda: draw_next(api)):
        response = api.client.post("/v1/generate", json={"seed": 3}, headers={"Prefer": "respond-async, wait=10"})
    assert (response.status_code, response.json()["status"]) == (200, "succeeded")
    assert response.headers["preference-applied"] == "wait=10"


def test_prefer_wait_that_is_too_short_answers_202_and_the_job_goes_on(api: Api) -> None:
    began = time.monotonic()
    response = api.client.post("/v1/generate", json={}, headers={"Prefer": "wait=0.3"})
    assert 0.25 < time.monotonic() - began < 3
    assert (response.status_code, response.json()["status"]) == (202, "queued")
    api.draw(api.claim())
    assert api.client.get(response.headers["location"]).json()["status"] == "succeeded"


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_accept_a_picture_and_get_the_picture(api: Api, format: str) -> None:
    with meanwhile(lambda: draw_next(api)):
        response = api.client.post("/v1/generate", json={"seed": 9}, headers={"Accept": f"image/{format}"})
    assert (response.status_code, response.headers["content-type"]) == (200, f"image/{format}")
    assert response.headers["x-seed"] == "9"
    assert response.headers["location"] == f"/v1/jobs/{response.headers['x-job-id']}"
    with Image.open(io.BytesIO(response.content)) as picture:
        assert ((picture.format or "").lower(), picture.size) == (format, (32, 32))


def test_accept_any_picture_and_get_the_format_of_the_request(api: Api) -> None:
    with meanwhile(lambda: draw_next(api)):
        response = api.client.post("/v1/generate", json={"format": "webp"}, headers={"Accept": "image/*"})
    assert (response.status_code, response.headers["content-type"]) == (200, "image/webp")


def test_a_picture_that_is_not_done_in_time_is_a_504_with_its_address(api: Api) -> None:
    response = api.client.post("/v1/generate", json={}, headers={"Accept": "image/png", "Prefer": "wait=0.2"})
    assert (response.status_code, response.json()["code"]) == (504, "not_done_yet")
    api.draw(api.claim())
    assert api.client.get(response.headers["location"] + "/images/0").status_code == 200


def test_a_failed_job_is_no_picture(api: Api) -> None:
    def fail() -> None:
        while not api.queue(lambda q, _, __: q.depth("hand")):
            time.sleep(0.02)
        claim = api.claim()
        error = {"code": "out_of_memory", "message": "too many"}
        say = {"state": "failed", "event": "failed", "data": {"error": error}, "error": error}
        api.queue(lambda q, _, __: q.finish(claim.id, claim.attempt, 1, **say))  # type: ignore[arg-type]

    with meanwhile(fail):
        response = api.client.post("/v1/generate", json={}, headers={"Accept": "image/png"})
    assert (response.status_code, response.json()["code"]) == (500, "out_of_memory")
    assert api.client.get(response.headers["location"] + "/images/0").status_code == 409
    assert api.client.get(response.headers["location"]).json()["error"] == {
        "code": "out_of_memory", "message": "too many"
    }  # fmt: skip


def test_accept_events_and_follow_the_job_on_the_same_connection(api: Api) -> None:
    with (
        meanwhile(lambda: draw_next(api)),
        api.client.stream("POST", "/v1/generate", json={}, headers={"Accept": "text/event-stream"}) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        names = [frame["event"] for frame in frames(response.iter_lines())]
    assert [name for name in names if name != "heartbeat"] == ["queued", "started", "tokens", "tokens", "completed"]
    assert api.client.get(response.headers["location"]).json()["status"] == "succeeded"


@pytest.mark.parametrize(
    ("accept", "fields", "status"),
    [("image/png", {"n": 2}, 422), ("text/html", {}, 406), ("text/event-stream", {"n": 99}, 422)],
)
def test_an_impossible_wish_is_refused_before_anything_is_queued(
    api: Api, accept: str, fields: dict[str, Any], status: int
) -> None:
    assert api.client.post("/v1/generate", json=fields, headers={"Accept": accept}).status_code == status
    assert api.queue(lambda q, _, __: q.depth("hand")) == 0


# ---- idempotency, limits -------------------------------------------------------------------------------------------


def test_an_idempotency_key_makes_one_job(api: Api) -> None:
    key = {"Idempotency-Key": "order-1"}
    first = api.client.post("/v1/generate", json={"class": 1}, headers=key)
    second = api.client.post("/v1/generate", json={"class": 1}, headers=key)
    assert (first.json()["id"], first.json()["request"]["seed"]) == (
        second.json()["id"],
        second.json()["request"]["seed"],
    )
    other = api.client.post("/v1/generate", json={"class": 2}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "key_reused")
    api.draw(api.claim())
    done = api.client.post("/v1/generate", json={"class": 1}, headers=key)
    assert (done.status_code, done.json()["status"]) == (200, "succeeded")
    assert api.client.post("/v1/generate", json={}, headers={"Idempotency-Key": "a b"}).status_code == 400


def test_a_model_without_a_worker_is_a_503_and_an_unknown_one_a_422(api: Api) -> None:
    import dataclasses

    other = dataclasses.replace(CARD, name="other")
    api.show_card(other, worker="hand-2")
    assert api.client.post("/v1/generate", json={}).json()["errors"][0]["code"] == "model_needed"
    assert api.client.post("/v1/generate", json={"model": "other"}).status_code == 202

    async def work(queue: Any, cards: Any, _: Any) -> None:
        [claim] = await queue.claim("other", "hand-2", budget=10**6, limit=1, alone=True)
        await queue.finish(claim.id, claim.attempt, 1, state="canceled", event="canceled", data={})
        await cards.remove("hand-2")

    api.queue(work)
    time.sleep(1.1)  # the catalogue is fresh for a second
    gone = api.client.post("/v1/generate", json={"model": "other"})
    assert (gone.status_code, gone.json()["code"]) == (503, "no_worker")
    assert int(gone.headers["retry-after"]) >= 1
    unknown = api.client.post("/v1/generate", json={"model": "another"})
    assert (unknown.status_code, unknown.json()["errors"][0]["message"]) == (
        422, "there is no such model; served now: hand"
    )  # fmt: skip


# ---- inpaint -------------------------------------------------------------------------------------------------------


def half_mask(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, width // 2 :] = 255
    return mask


def stored(api: Api, name: str) -> bytes:
    data = api.queue(lambda _, __, blobs: blobs.get(name))
    assert data is not None
    return data


@pytest.mark.parametrize("how", ["json", "data url", "multipart"])
def test_an_upload_reaches_the_worker_as_it_was(api: Api, how: str) -> None:
    image, mask = noise(37, 53), half_mask(37, 53)
    if how == "multipart":
        response = api.client.post(
            "/v1/inpaint",
            data={"class": "tree", "n": "2", "guidance_scale": "1.5", "feather": "3", "seed": ""},
            files={"image": ("a.gif", png(image), "image/gif"), "mask": ("m", png(mask))},
        )
    else:
        prefix = "data:image/png;base64," if how == "data url" else ""
        pictures = {name: prefix + base64.b64encode(png(p)).decode() for name, p in (("image", image), ("mask", mask))}
        fields = {"class": "tree", "n": 2, "guidance_scale": 1.5, "feather": 3}
        response = api.client.post("/v1/inpaint", json=fields | pictures)
    assert response.status_code == 202, response.text
    request = response.json()["request"]
    assert (request["class"], request["n"], request["feather"], request["mask_mode"]) == (6, 2, 3, "white")
    claim = api.claim()
    assert np.array_equal(decode_image(stored(api, claim.payload["image"]), "image", LIMITS), image)
    assert np.array_equal(decode_mask(stored(api, claim.payload["mask"]), "mask", "white", LIMITS), mask > 0)
    api.draw(claim)


def test_the_pictures_own_transparency_can_be_the_mask(api: Api) -> None:
    rgba = np.dstack([noise(16, 16), 255 - half_mask(16, 16)])
    response = api.client.post("/v1/inpaint", data={"mask_mode": "alpha"}, files={"image": png(rgba)})
    assert response.status_code == 202, response.text
    claim = api.claim()
    mask = decode_mask(stored(api, claim.payload["mask"]), "mask", "white", LIMITS)
    assert np.array_equal(mask, half_mask(16, 16) > 0)
    api.draw(claim)


def test_an_inpainting_order_names_the_tokens_that_the_mask_touches(api: Api) -> None:
    files = {"image": png(noise(32, 32)), "mask": png(half_mask(32, 32))}
    right = [3, 2, 6, 7, 11, 10, 14, 15]
    assert api.client.post("/v1/inpaint", data={"order": "3,2,6"}, files=files).json()["errors"][0]["code"] == "order"
    response = api.client.post("/v1/inpaint", data={"order": ",".join(map(str, right))}, files=files)
    assert response.status_code == 202, response.text
    claim = api.claim()
    assert claim.payload["order"] == right
    api.draw(claim)


GOOD = {"image": png(noise(16, 16)), "mask": png(half_mask(16, 16))}


@pytest.mark.parametrize(
    ("files", "data", "status", "field", "code"),
    [
        ({"image": b"not a picture", "mask": GOOD["mask"]}, {}, 415, "image", "not_an_image"),
        ({"image": GOOD["image"], "mask": GOOD["mask"][:45]}, {}, 422, "mask", "damaged"),
        ({"image": GOOD["image"], "mask": png(half_mask(16, 15))}, {}, 422, "mask", "size"),
        ({"image": GOOD["image"], "mask": png(np.zeros((16, 16), np.uint8))}, {}, 422, "mask", "empty_mask"),
        ({"image": GOOD["image"], "mask": png(np.full((16, 16), 255, np.uint8))}, {}, 422, "mask", "full_mask"),
        ({"image": GOOD["image"]}, {}, 422, "mask", "missing"),
        ({"mask": GOOD["mask"]}, {}, 422, "image", "missing"),
        ({"image": GOOD["image"]}, {"mask_mode": "alpha"}, 422, "image", "no_alpha"),
        ({"mask": GOOD["mask"]}, {"image": "photo.png"}, 422, "image", "file_needed"),
        (GOOD, {"n": "many"}, 422, "n", "int_type"),
        (GOOD, {"colour": "red"}, 422, "colour", "extra_forbidden"),
        (GOOD, {"class": "shpere"}, 422, "class", "unknown_class"),
        ({"image": png(noise(1, 9000)), "mask": GOOD["mask"]}, {}, 413, "image", "too_many_pixels"),
    ],
)
def test_a_bad_upload_is_refused_by_field_and_nothing_is_queued(
    api: Api, files: dict[str, bytes], data: dict[str, str], status: int, field: str, code: str
) -> None:
    response = api.client.post("/v1/inpaint", data=data, files=files)
    assert response.status_code == status, response.text
    assert [(error["field"], error["code"]) for error in response.json()["errors"]] == [(field, code)]
    assert api.queue(lambda q, _, __: q.depth("hand")) == 0


def test_a_field_that_is_there_twice_is_refused(api: Api) -> None:
    twice = [("image", GOOD["image"]), ("mask", GOOD["mask"]), ("mask", GOOD["image"])]
    for response in (
        api.client.post("/v1/inpaint", files=twice[:2] + twice[1:2], data={}),
        api.client.post("/v1/inpaint", files=GOOD, data={"n": ["1", "2"]}),
    ):
        assert (response.status_code in (400, 422), "errors" in response.json()) == (True, response.status_code == 422)
    assert response.json()["errors"][0]["field"] == "n"


def test_other_bodies_are_told_what_to_send(api: Api) -> None:
    for path in ("/v1/generate", "/v1/inpaint"):
        response = api.client.post(
            path, content=b"class=3", headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert (response.status_code, "--json" in response.json()["detail"]) == (415, True)
    broken = api.client.post("/v1/inpaint", content=b"xx", headers={"Content-Type": "multipart/form-data; boundary=a"})
    assert broken.status_code in (400, 422)
    base = {"image": "%%%", "mask": "AAAA"}
    assert api.client.post("/v1/inpaint", json=base).json()["errors"][0]["field"] == "image"


def test_a_server_that_drains_takes_nothing_new(api: Api) -> None:
    api.lifecycle.draining = True
    try:
        response = api.client.post("/v1/generate", json={})
        assert (response.status_code, response.json()["code"]) == (503, "draining")
        assert api.client.get("/readyz").status_code == 503
        assert api.client.get("/healthz").status_code == 200
    finally:
        api.lifecycle.draining = False


def test_many_at_once_each_get_their_own_job(api: Api) -> None:
    with httpx.Client(base_url=api.url, timeout=20) as client:
        ids = {client.post("/v1/generate", json={"seed": i}).json()["id"] for i in range(20)}
    assert len(ids) == 20
    claims = api.queue(lambda q, _, __: q.claim("hand", "hand-1", budget=10**6, limit=20, alone=True))
    assert {claim.id for claim in claims} == ids
    for claim in claims:
        api.queue(lambda q, _, __, c=claim: q.finish(c.id, c.attempt, 1, state="canceled", event="canceled", data={}))
