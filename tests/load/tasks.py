"""The mix of tasks, and their requests."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIDE = 128
"""Height and width of the demo model's pictures, in pixels."""
PHOTO_SIDE = 192

CLASSES = 16

MIX: Mapping[str, float] = {
    "generate": 38,
    "inpaint": 14,
    "outpaint": 7,
    "vary": 10,
    "fork": 8,
    "expand": 2,
    "again": 4,  # several copies at once with one idempotency key
    "cancel": 8,
    "wrong": 5,  # requests that must be rejected
    "look": 4,  # reads models, classes and health
}

WAYS: Mapping[str, float] = {
    "poll": 28,
    "events": 27,  # a reader that disconnects and resumes
    "stream": 10,  # the response to the POST is the stream
    "wait": 18,  # Prefer: wait
    "picture": 11,  # Accept: image/png
    "slow": 6,  # a slow reader of previews
}

SOURCES = frozenset({"generate", "again", "inpaint", "vary"})
"""Tasks whose pictures may be sources and may be forked: drawn in one window at the model's size."""

WRONG: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/generate", {"n": 0}),
    ("/v1/generate", {"class": "unicorn"}),
    ("/v1/generate", {"order": [1, 1, 2]}),
    ("/v1/generate", {"steps": "many"}),
    ("/v1/expand", {"class": 1, "width": 8, "height": 8}),
    ("/v1/inpaint", {"class": 1, "image": "bm90IGEgcGljdHVyZQ=="}),
    ("/v1/vary", {"class": 1, "keep": 2, "source": {"job": "x"}}),
)


@dataclass(frozen=True, slots=True)
class Pictures:
    """What customers upload: pictures, and masks of the same size, as PNG."""

    drawn: tuple[bytes, ...]
    masks: tuple[bytes, ...]


def masks(side: int = SIDE) -> tuple[bytes, ...]:
    shapes = [(0.5, 0, 1, 1), (0.15, 0.23, 0.7, 0.78), (0, 0.7, 1, 1)]
    made = []
    for index, box in enumerate(shapes):
        mask = Image.new("L", (side, side))
        draw = ImageDraw.Draw(mask)
        (draw.ellipse if index == 1 else draw.rectangle)([int(side * edge) for edge in box], fill=255)
        made.append(_png(mask))
    return tuple(made)


def photos(pictures: Pictures, random: Random) -> Pictures:
    """Larger versions with noise, as a camera would take them: they don't compress well."""
    grain = np.random.default_rng(random.getrandbits(64))
    taken = []
    for drawn in pictures.drawn:
        picture = np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB").resize((PHOTO_SIDE, PHOTO_SIDE)), dtype=float)
        grainy = np.clip(picture + grain.normal(0, 12, picture.shape), 0, 255)
        taken.append(_png(Image.fromarray(grainy.astype(np.uint8))))
    return Pictures(tuple(taken), masks(PHOTO_SIDE))


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def pick(weights: Mapping[str, float], random: Random) -> str:
    return random.choices(list(weights), list(weights.values()))[0]


def drawing(random: Random) -> dict[str, Any]:
    """Returns fields that every task has."""
    fields: dict[str, Any] = {"class": random.randrange(CLASSES), "steps": random.choice((8, 16, 16, 32))}
    if random.random() < 0.2:
        fields["guidance_scale"] = 1.0
    if random.random() < 0.15:
        fields["n"] = random.choice((2, 3))
    if random.random() < 0.2:
        fields["previews"] = 4
    return fields


def request(task: str, random: Random, pictures: Pictures, source: str | None) -> dict[str, Any] | None:
    """Returns arguments of a POST; None if the task needs a source and there is none. source: a job of the client."""
    fields = drawing(random)
    if task in ("generate", "again", "cancel"):
        return {"path": "/v1/generate", "json": fields}
    if task == "expand":
        return {"path": "/v1/expand", "json": fields | {"n": 1, "width": 192, "height": SIDE}}
    if task == "fork":
        fork = {"step": random.randrange(1, 7), "n": 1}
        return {"path": f"/v1/jobs/{source}/fork", "json": fork} if source else None
    more: dict[str, Any] = {}
    if task == "outpaint":
        more = {random.choice(("left", "right", "up", "down")): 64}
    elif task == "vary":
        more = {"keep": random.choice((0.25, 0.5))}
    files = {"image": random.choice(pictures.drawn)}
    if task == "inpaint":
        files["mask"] = random.choice(pictures.masks)
    kind = random.choice(("form", "form", "json", "source"))
    if kind == "source" and source and task != "inpaint":
        return {"path": f"/v1/{task}", "json": fields | more | {"source": {"job": source}}}
    if kind == "form":
        named = {name: (f"{name}.png", data, "image/png") for name, data in files.items()}
        texts = {name: str(value) for name, value in (fields | more).items()}
        return {"path": f"/v1/{task}", "data": texts, "files": named}
    coded = {name: base64.b64encode(data).decode() for name, data in files.items()}
    return {"path": f"/v1/{task}", "json": fields | more | coded}


def one_picture(asked: dict[str, Any]) -> None:
    """Changes the request to one for a single picture."""
    asked.get("json", asked.get("data", {})).pop("n", None)


def with_previews(asked: dict[str, Any], random: Random) -> None:
    """Makes the stream long: a preview at every second step."""
    fields = asked.get("json", asked.get("data", {}))
    if "step" not in fields:
        fields["previews"] = 2 if "json" in asked else "2"
