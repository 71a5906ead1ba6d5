"""The wire: what clients and stored pictures depend on, compared with files in `tests/golden/wire`.

`arpg serve` draws every task with fixed seeds and stored weights. Each case is one file: the job as GET gives it in the
end, its events, the recipe in each PNG, and each picture's tokens. More files hold the OpenAPI document, the list of
models, typical error bodies, and what each task's POST answers while the job is queued.

A test that fails here says that a client sees something else than before, or that a seed draws another picture. Strings
such as task names are part of the hashes that draw. If the change is meant, write the files again and read the diff:

    ARPG_WRITE_WIRE=1 .venv/bin/python -m pytest tests/e2e/test_wire.py

What differs from run to run is replaced: ids of jobs and requests, times, how tokens are split into events. Pixels are
not compared, because decoders round differently; the digest in a recipe is recomputed from the picture's own pixels.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.api import Api, half_mask, noise, png
from tests.support.serve import serving
from tests.support.tiny import (
    GOLDEN,
    GOLDEN_TOKENIZER,
    golden_folder,
    golden_transformer,
    random_t5,
    write_folder,
)
from tests.support.wire import Case, Json, Wire, compare

PICTURE = png(noise(30, 26, seed=1))
MASK = png(half_mask(30, 26))
SMALL = png(noise(32, 32, seed=2))

DRAW = {"model": "golden", "class": 4, "seed": 7, "steps": 6, "temperature": 1.0, "guidance_scale": 2.0}


def folders(root: Path) -> list[Path]:
    """A model of each family, and one that takes text. The grid is 8×8, so that more tokens can be known than a prefill
    takes at once."""
    made = []
    for family, weights, regions in (
        ("arpg", "arpg_tiny", None),
        ("llamagen", "llamagen_tiny", None),
        ("par", "par4_tiny", 4),
    ):
        folder = root / family
        write_folder(
            folder,
            transformer=golden_transformer(weights),
            tokenizer=GOLDEN_TOKENIZER,
            grid=(8, 8),
            name="golden" if family == "arpg" else f"golden-{family}",
            family=family,
            regions=regions,
        )
        (folder / f"{family}.safetensors").symlink_to(GOLDEN / f"{weights}.weights.safetensors")
        (folder / "vq.safetensors").symlink_to(GOLDEN / "vq_tiny.weights.safetensors")
        made.append(folder)
    return [*made, _text_folder(root / "text")]


def _text_folder(folder: Path) -> Path:
    """LlamaGen with text, and a text encoder with random weights."""
    golden_folder(folder, "llamagen_t2i_tiny")
    description = json.loads((folder / "model.json").read_text())
    encoder = random_t5(folder, width=description["text"]["width"])
    (folder / "model.json").write_text(json.dumps(description | {"name": "golden-text", "text_encoder": encoder}))
    return folder


def as_json(route: str, **fields: Any) -> Case:
    return lambda _: (f"/v1/{route}", {"json": DRAW | fields})


def as_text(**fields: Any) -> Case:
    return lambda _: ("/v1/generate", {"json": {"model": "golden-text", "seed": 7} | fields})


def as_form(route: str, files: dict[str, bytes], **fields: Any) -> Case:
    return lambda _: (f"/v1/{route}", {"data": {k: str(v) for k, v in (DRAW | fields).items()}, "files": files})


def from_source(route: str, case: str, **fields: Any) -> Case:
    return lambda wire: (
        f"/v1/{route}",
        {"json": DRAW | {"source": {"job": wire.id_of(case), "image": 1}} | fields},
    )


def fork(parent: Callable[[Wire], str], **fields: Any) -> Case:
    return lambda wire: (f"/v1/jobs/{parent(wire)}/fork", {"json": fields})


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


CASES: dict[str, Case] = {
    "generate": as_json("generate", **{"class": 3, "n": 2}),
    "generate-no-class": as_json("generate", **{"class": None, "guidance_scale": None, "previews": 1, "steps": 12}),
    "generate-settings": as_json(
        "generate",
        **{
            "class": "class 2",
            "order": [*range(63, -1, -2), *range(0, 64, 2)],
            "schedule": "cosine",
            "guidance_schedule": "constant",
            "guidance_interval": 40,
            "content_attention": "causal",
            "top_k": 20,
            "top_p": 0.9,
            "priority": "low",
            "format": "webp",
            "quality": 80,
        },
    ),
    "generate-llamagen": lambda _: ("/v1/generate", {"json": {"model": "golden-llamagen", "class": 1, "seed": 7}}),
    "generate-par": lambda _: ("/v1/generate", {"json": {"model": "golden-par", "class": 1, "seed": 7}}),
    "generate-text": as_text(prompt="a purple mug on a green floor", negative_prompt="grey sky", n=2),
    "generate-text-warnings": as_text(prompt="a naïve ball 球 in the house with red and blue floor next to two trees"),
    "generate-text-no-prompt": as_text(),
    "expand": as_json("expand", **{"class": 3, "width": 40, "height": 40, "method": "interpolate"}),
    "expand-windowed": as_json("expand", **{"class": 3, "width": 56, "height": 36, "method": "windowed", "n": 2}),
    "inpaint": as_form("inpaint", {"image": PICTURE, "mask": MASK}, **{"class": 4, "n": 2, "feather": 2}),
    "inpaint-source": from_source("inpaint", "generate", mask=base64_of(png(half_mask(32, 32)))),
    "outpaint": as_form("outpaint", {"image": PICTURE}, **{"class": 5, "left": 3, "down": 20}),
    "outpaint-source": from_source("outpaint", "generate", up=16, seamless=False),
    "vary": as_json("vary", **{"class": 6, "image": base64_of(SMALL), "keep": 0.6, "keep_seed": 11, "n": 2}),
    "vary-source": from_source("vary", "generate", keep=0.4),
    "fork": fork(lambda wire: wire.id_of("generate"), step=3, n=2, image_index=1, seed=21),
    "fork-of-fork": fork(lambda wire: wire.id_of("fork"), step=4, seed=22),
    "fork-inpaint": fork(lambda wire: wire.id_of("inpaint"), step=2, seed=23),
    "fork-text": fork(lambda wire: wire.id_of("generate-text"), step=30, image_index=1, seed=25),
    "fork-running": fork(lambda wire: wire.id_of_running("long"), step=2, seed=24),
}
HELPERS: dict[str, Case] = {"long": as_json("generate", **{"class": 3, "steps": 64})}


REFUSALS: dict[str, Callable[[Wire], httpx.Response]] = {
    "unknown class": lambda wire: wire.client.post("/v1/generate", json=DRAW | {"class": "unicorn"}),
    "unknown field": lambda wire: wire.client.post("/v1/generate", json=DRAW | {"colour": "red"}),
    "wrong type": lambda wire: wire.client.post("/v1/generate", json=DRAW | {"n": "two"}),
    "several fields": lambda wire: wire.client.post("/v1/generate", json=DRAW | {"n": 99, "top_p": 0}),
    "bad order": lambda wire: wire.client.post("/v1/generate", json=DRAW | {"order": [0, 1, 1]}),
    "setting not supported": lambda wire: wire.client.post(
        "/v1/generate", json={"model": "golden-llamagen", "schedule": "cosine"}
    ),
    "task not supported": lambda wire: wire.client.post(
        "/v1/vary", json={"model": "golden-llamagen", "image": base64_of(SMALL)}
    ),
    "class of a model that takes text": lambda wire: wire.client.post(
        "/v1/generate", json={"model": "golden-text", "class": 1}
    ),
    "prompt of a model of classes": lambda wire: wire.client.post("/v1/generate", json=DRAW | {"prompt": "a mug"}),
    "negative prompt alone": lambda wire: wire.client.post(
        "/v1/generate", json={"model": "golden-text", "negative_prompt": "fog"}
    ),
    "unknown model": lambda wire: wire.client.post("/v1/generate", json={"model": "nobody"}),
    "model needed": lambda wire: wire.client.post("/v1/generate", json={"class": 1}),
    "not whole tokens": lambda wire: wire.client.post("/v1/expand", json=DRAW | {"width": 33, "height": 32}),
    "mask selects nothing": lambda wire: wire.client.post(
        "/v1/inpaint",
        data={"model": "golden"},
        files={"image": SMALL, "mask": png(np.zeros((32, 32), dtype=np.uint8))},
    ),
    "no picture": lambda wire: wire.client.post("/v1/outpaint", json={"model": "golden", "image": base64_of(b"text")}),
    "unknown source": lambda wire: wire.client.post("/v1/vary", json=DRAW | {"source": {"job": "nobody"}}),
    "unknown job": lambda wire: wire.client.get("/v1/jobs/nobody"),
    "unknown image": lambda wire: wire.client.get(f"/v1/jobs/{wire.id_of('generate')}/images/2"),
    "fork of windows": lambda wire: wire.client.post(
        f"/v1/jobs/{wire.id_of('expand-windowed')}/fork", json={"step": 1}
    ),
    "key reused": lambda wire: [
        wire.client.post("/v1/generate", json=DRAW | {"seed": seed}, headers={"Idempotency-Key": "once"})
        for seed in (1, 2)
    ][-1],
    "broken json": lambda wire: wire.client.post(
        "/v1/generate", content='{"class": ', headers={"Content-Type": "application/json"}
    ),
}


QUEUED: dict[str, Json] = {
    "generate": {"json": {"class": "ball", "n": 2, "seed": 3}},
    "expand": {"json": {"class": 2, "seed": 3, "width": 64, "height": 32}},
    "inpaint": {"data": {"seed": "3", "mask_mode": "black"}, "files": {"image": PICTURE, "mask": MASK}},
    "outpaint": {"data": {"seed": "3", "left": "5"}, "files": {"image": PICTURE}},
    "vary": {"json": {"seed": 3, "image": base64_of(SMALL)}},
}


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    root = tmp_path_factory.mktemp("wire")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARPG_BATCH_INVARIANT", "1")
        patch.setenv("ARPG_DEVICE", "cpu")
        with serving(root / "var", *folders(root)) as server:
            yield Wire(server.client, CASES | HELPERS)


def test_the_openapi_document(wire: Wire) -> None:
    compare("openapi", wire.client.get("/openapi.json").json())


def test_the_models(wire: Wire) -> None:
    listed = wire.client.get("/v1/models").json()
    for model in listed["models"] + listed["data"]:
        assert isinstance(model["created"], int)
        model["created"] = 0  # when the worker started
    compare("models", listed)


@pytest.mark.parametrize("case", [*CASES])
def test_a_job(wire: Wire, case: str) -> None:
    compare(case, wire.record(case))


def test_queued_jobs(api: Api) -> None:
    """No worker takes these, so they stay queued."""
    told = {}
    for position, (route, sent) in enumerate(QUEUED.items()):
        response = api.client.post(f"/v1/{route}", **sent)
        assert response.status_code == 202, response.text
        job = response.json()
        assert (job["status"], job["position"]) == ("queued", position)
        assert response.headers["location"] == job["urls"]["self"]
        wire = Wire(api.client, {})
        wire.ids[route] = job["id"]
        told[route] = wire.plain(job)
        assert wire.plain(api.client.get(job["urls"]["self"]).json()) == told[route]
    compare("queued", told)


def test_refusals(wire: Wire) -> None:
    told = {}
    for name, ask in REFUSALS.items():
        response = ask(wire)
        body = response.json()
        assert response.headers["content-type"] == "application/problem+json"
        assert body["request_id"] == response.headers["x-request-id"]
        told[name] = {"status": response.status_code, "body": wire.plain(body)}
    compare("refusals", told)
