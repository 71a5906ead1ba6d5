"""Both clients against a real server: every task, jobs and their pictures, and errors as they are told."""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service import client as package
from service.client import AsyncClient, Client, Source
from service.jobs.result import JobWarning
from tests.client.conftest import Open
from tests.support.api import Api, half_mask, noise, png, spec_of
from tests.support.keys import Keyed

PICTURE = png(noise(32, 32))
MASK = png(half_mask(32, 32))


def test_a_picture_is_drawn_waited_for_and_saved(api: Api, connect: Open, tmp_path: Path) -> None:
    client = connect(api.url)
    job = client.generate(class_="mushroom", n=2, seed=7, steps=4, temperature=0.5, order=range(16))
    assert (job.status, job.task, job.class_name, job.ended) == ("queued", "generate", "mushroom", False)
    assert job.request["order"] == list(range(16))
    api.draw(api.claim())
    done = client.wait(job)
    assert (done.status, [image.width for image in done.images]) == ("succeeded", [32, 32])
    assert done.images[0].seed == 7
    client.save(done, tmp_path / "second.webp", index=1)
    assert Image.open(tmp_path / "second.webp").format == "WEBP"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(client.picture(job.id)))), noise(32, 32, seed=0))
    with pytest.raises(ValueError, match=r"second\.bmp: the extension must be one of \.png, \.jpg, \.jpeg, \.webp"):
        client.save(done, tmp_path / "second.bmp")


def test_pictures_are_edited_as_files_paths_bytes_and_sources(api: Api, connect: Open, tmp_path: Path) -> None:
    client = connect(api.url)
    path = tmp_path / "picture.png"
    path.write_bytes(PICTURE)
    drawn = client.generate()
    api.draw(api.claim())
    asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("inpaint", (path, MASK), {"class_": "tree", "mask_mode": "white", "feather": 2, "seamless": False}),
        ("inpaint", (Source(drawn), io.BytesIO(MASK)), {"class_": 3}),
        ("outpaint", (PICTURE,), {"left": 8, "right": 8, "class_": "table", "guidance_scale": 2.5}),
        ("outpaint", (Source(drawn.id, 0),), {"down": 8}),
        ("vary", (str(path),), {"keep": 0.25, "keep_seed": 3, "n": 2, "order": None}),
        ("vary", (path.open("rb"),), {"model": "hand"}),
        ("expand", (48, 32), {"class_": "house", "method": "ntk"}),
    ]
    for task, arguments, fields in asked:
        job = getattr(client, task)(*arguments, **fields)
        assert job.task == task
        told = job.data["request"] | {"class_": job.request["class"]}
        wanted = {name: value for name, value in fields.items() if name != "class_" and value is not None}
        assert told.items() >= wanted.items()
        assert bool(spec_of(api.claim()).blobs) == (task != "expand")
    with pytest.raises(package.BadRequestError, match="order: must name each of the 8 positions to draw exactly once"):
        client.vary(PICTURE, order=range(16))


def test_a_job_is_cancelled_and_forked(api: Api, connect: Open) -> None:
    client = connect(api.url)
    job = client.generate(n=2, seed=5)
    api.draw(api.claim(), steps=4)
    fork = client.fork(job, 1, image_index=1, n=3, seed=9)
    assert fork.data["fork"] == {"job": job.id, "image": 1, "step": 1}
    assert (len(spec_of(api.claim()).seeds), fork.request["seed"]) == (3, 9)
    waiting = client.generate()
    assert client.cancel(waiting).status == "canceled"
    assert client.job(waiting).status == "canceled"
    with pytest.raises(package.JobCanceledError, match=waiting.id):
        client.wait(waiting.id)


def test_models_are_told_with_what_they_take(api: Api, connect: Open) -> None:
    client = connect(api.url)
    [model] = client.models()
    assert (model.id, model.conditioning, model.grid, model.width) == ("hand", "class", (4, 4), 32)
    assert model.example_prompts == ()
    told = {**model.data, "example_prompts": ["a red mug"]}
    assert type(model).of(told).example_prompts == ("a red mug",)
    palette = client.palette("hand")
    assert (palette.codes, len(palette.rgb)) == (8, 8 * palette.height * palette.width * 3)


def test_an_error_says_the_field_and_the_remedy(api: Api, connect: Open) -> None:
    client = connect(api.url)
    with pytest.raises(package.BadRequestError) as caught:
        client.generate(class_="mushrom")
    error = caught.value
    assert (error.status, error.field, "mushroom" in error.message) == (422, "class", True)
    assert error.request_id
    with pytest.raises(package.BadRequestError) as caught:
        client.generate(n=17, steps=0)
    assert [one.field for one in caught.value.errors] == ["n", "steps"]
    with pytest.raises(package.ExpiredError):
        client.job("66b2f0c4-0f6d1c2b3a495867")
    with pytest.raises(package.NotFoundError):
        client.job("no/such job")
    with pytest.raises(package.BadRequestError, match="image"):
        client.vary(b"no picture")
    with pytest.raises(FileNotFoundError):
        client.vary("nowhere.png")


def test_a_failed_job_raises_its_reason(api: Api, connect: Open) -> None:
    client = connect(api.url)
    job, claim = client.generate(), api.claim()
    error = {"code": "out_of_memory", "message": "there was not memory enough"}
    api.queue(
        lambda q, _, __: q.finish(
            claim.id, claim.attempt, 1, state="failed", event="failed", data={"error": error}, error=error
        )
    )
    with pytest.raises(package.JobFailedError, match="there was not memory enough") as caught:
        client.wait(job)
    assert (caught.value.code, caught.value.job.status) == ("out_of_memory", "failed")


def test_a_key_opens_a_server_that_needs_one(keyed: Keyed, connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARPG_API_KEY", raising=False)
    with pytest.raises(package.UnauthorizedError):
        connect(keyed.api.url).generate()
    job = connect(keyed.api.url, api_key=keyed.texts["ann"]).generate(priority="high")
    with pytest.raises(package.NotFoundError):
        connect(keyed.api.url, api_key=keyed.texts["bob"]).job(job)
    with pytest.raises(package.ForbiddenError):
        connect(keyed.api.url, api_key=keyed.texts["bob"]).generate(priority="high")
    monkeypatch.setenv("ARPG_API_KEY", keyed.texts["ann"])
    assert connect(keyed.api.url).job(job).id == job.id


def test_an_idempotency_key_makes_one_job(api: Api, connect: Open) -> None:
    client = connect(api.url)
    first = client.generate(seed=1, idempotency_key="one")
    assert client.generate(seed=1, idempotency_key="one").id == first.id
    with pytest.raises(package.BadRequestError) as caught:
        client.generate(seed=2, idempotency_key="one")
    assert (caught.value.status, caught.value.code) == (422, "key_reused")
    assert client.generate(start_timeout=60).data["start_by"]


def test_a_warning_is_told_with_the_job_and_its_last_event(api: Api, connect: Open) -> None:
    """Its text may hold characters that end a line elsewhere than in an event stream."""
    client = connect(api.url)
    job, claim = client.generate(), api.claim()
    text = "left out: “a\u2028b\x85c”"
    api.finish(claim, 1, [*spec_of(claim).seeds], warnings=[JobWarning(field="prompt", code="truncated", message=text)])
    [*_, last] = client.events(job)
    assert [warning.message for warning in last.warnings] == [text]
    assert client.job(job).warnings == last.warnings


def test_an_answer_of_something_else_is_told_as_such(api: Api, connect: Open) -> None:
    with pytest.raises(package.NotFoundError):
        connect(f"{api.url}/elsewhere").generate()

    def proxy(_: httpx.Request) -> httpx.Response:
        return httpx.Response(403, text="<h1>Blocked</h1>")

    with (
        Client(transport=httpx.MockTransport(proxy)) as client,
        pytest.raises(package.ForbiddenError, match="not as this API does: <h1>Blocked</h1>"),
    ):
        client.models()
    for address in ("localhost:8000", "", "ftp://here"):
        with pytest.raises(ValueError, match="base_url: "):
            connect(address)


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") and not name.endswith("close")
        }

    assert methods(Client) == methods(AsyncClient)
    assert len(methods(Client)) > 10
