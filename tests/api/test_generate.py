"""POST /v1/generate: what is accepted, what a worker gets, what is refused and how."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.engine import Engine
from engine.noise import image_seed
from service.tasks.drawing import requests
from service.tasks.generate import GenerateRequest
from service.tasks.layout import around
from service.tasks.planning import cost, job_spec
from tests.support.api import Api, noise, png, spec_of
from tests.support.tiny import random_folder
from tests.support.waiting import PATIENCE


def test_a_request_is_accepted_with_its_defaults_filled_in(api: Api) -> None:
    response = api.client.post("/v1/generate", json={"class": "mushroom"})
    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{job['id']}" == job["urls"]["self"]
    assert (job["status"], job["position"], job["task"], job["class_name"]) == ("queued", 0, "generate", "mushroom")
    request = job["request"]
    assert (request["class"], request["steps"], request["guidance_scale"], request["n"]) == (4, 8, 3.0, 1)
    claim = api.claim()
    assert [*spec_of(claim).seeds] == [request["seed"]]
    assert {name: getattr(spec_of(claim), name) for name in ("task", "model", "class_label")} == {
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
    assert [*spec_of(claim).seeds] == [image_seed(5, index) for index in range(3)]
    api.draw(claim)
    images = api.client.get(job["urls"]["self"]).json()["images"]
    assert [image["seed"] for image in images] == [*spec_of(claim).seeds]
    assert [image["url"] for image in images] == [f"{job['urls']['self']}/images/{i}" for i in range(3)]


def test_a_seed_has_63_bits_and_keeps_them_all(api: Api) -> None:
    job, most = api.generate(seed=2**63 - 1, n=2), 2**63 - 1
    claim = api.claim()
    assert (job["request"]["seed"], spec_of(claim).seeds) == (most, (most, image_seed(most, 1)))
    api.draw(claim)
    assert api.client.get(job["urls"]["self"]).json()["images"][0]["seed"] == most
    assert api.client.get(f"{job['urls']['self']}/images/0").headers["x-seed"] == str(most)


def test_a_seed_is_random_where_there_is_none_and_never_negative(api: Api) -> None:
    """In other services −1 means random."""
    seeds = {api.generate(**fields)["request"]["seed"] for fields in ({}, {"seed": None}, {"seed": None})}
    assert len(seeds) == 3
    assert max(seeds) < 2**32
    picture = {"image": b64encode(png(noise(32, 32))).decode()}
    for path, fields, field in (
        ("generate", {"seed": -1}, "seed"),
        ("vary", picture | {"seed": -(2**63)}, "seed"),
        ("vary", picture | {"keep_seed": -1}, "keep_seed"),
        ("jobs/unknown/fork", {"step": 1, "seed": -1}, "seed"),
    ):
        [error] = api.client.post(f"/v1/{path}", json=fields).json()["errors"]
        remedy = "leave it out or null for random" if field == "seed" else "leave it out or null to use the seed"
        assert error["field"] == field
        assert error["message"] == f"must be between 0 and 9223372036854775807; {remedy}"
    response = api.client.post("/v1/vary", data={"seed": "-1"}, files={"image": png(noise(32, 32))})
    assert "leave it out or null for random" in response.json()["detail"]
    big = api.client.post("/v1/vary", data={"seed": str(2**63 - 1)}, files={"image": png(noise(32, 32))}).json()
    assert big["request"]["seed"] == 2**63 - 1


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
        ({"seed": 2**63}, "seed"), ({"steps": 0}, "steps"), ({"steps": 257}, "steps"), ({"steps": True}, "steps"),
        ({"schedule": "linear"}, "schedule"), ({"guidance_scale": -1}, "guidance_scale"),
        ({"guidance_schedule": "cosine"}, "guidance_schedule"), ({"guidance_interval": -1}, "guidance_interval"),
        ({"content_attention": "no"}, "content_attention"), ({"temperature": -0.1}, "temperature"),
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
    assert [*(spec_of(claim).sampling.order or ())] == order
    api.draw(claim)


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ({}, 32),  # 16 positions, one page, for each of two branches
        ({"guidance_scale": 1}, 16),
        ({"class": None}, 16),
        ({"n": 3}, 96),
    ],
)
def test_a_job_weighs_the_cache_that_it_may_hold(api: Api, fields: dict[str, Any], cost: int) -> None:
    api.generate(**{"class": 1} | fields)
    claim = api.claim()
    assert claim.cost == cost
    api.draw(claim)


FAMILIES = ("arpg", "llamagen", "par")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    folders = {family: random_folder(tmp_path_factory.mktemp("model"), family=family) for family in FAMILIES}
    return {family: Engine.load(folder, device="cpu") for family, folder in folders.items()}


@given(
    family=st.sampled_from(FAMILIES),
    steps=st.integers(1, 256),
    schedule=st.sampled_from(["arccos", "cosine"]),
    guidance=st.sampled_from([0.0, 1.0, 4.0]),
    label=st.none() | st.integers(0, 3),
    known=st.frozensets(st.integers(0, 63), max_size=63),
    n=st.integers(1, 16),
)
def test_a_job_weighs_at_least_what_the_engine_reserves_for_it(
    engines: dict[str, Engine],
    family: str,
    steps: int,
    schedule: str,
    guidance: float,
    label: int | None,
    known: frozenset[int],
    n: int,
) -> None:
    engine = engines[family]
    given: dict[str, Any] = {"n": n} if label is None else {"n": n, "class": label, "guidance_scale": guidance}
    if family == "arpg":
        given |= {"steps": steps, "schedule": schedule}
    known = known if "inpaint" in engine.model.tasks else frozenset()
    fixed = np.zeros((8, 8), dtype=bool)
    fixed.flat[list(known)] = True
    fields = GenerateRequest.model_validate(given | {"seed": 0})
    spec = job_spec("generate", fields, engine.model, around(fixed, (16, 16), engine.model))
    capacity = {"page_size": engine.config.page_size, "cache_tokens": engine.tokens_total}
    reserved = engine.cost(replace(requests(spec, engine.model)[0], fixed_tokens=dict.fromkeys(known, 0)))
    weighs = cost(spec, engine.model, capacity)
    assert n * reserved <= weighs
    branches = len({label, None}) if spec.sampling.guidance_scale != 1 else 1
    assert weighs == n * branches * 64  # of a whole grid of tokens in whole pages


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
    with httpx.Client(base_url=api.url, timeout=PATIENCE) as client:
        ids = {client.post("/v1/generate", json={"seed": i}).json()["id"] for i in range(20)}
    assert len(ids) == 20
    claims = api.queue(lambda q, _, __: q.claim("hand", "hand-1", budget=10**6, limit=20, alone=True))
    assert {claim.id for claim in claims} == ids
