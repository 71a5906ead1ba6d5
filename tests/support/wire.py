"""What a client sees of a job, with what differs from run to run replaced; and the files that it is compared with."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.support.api import frames
from tests.support.tiny import GOLDEN

WIRE = GOLDEN / "wire"
WRITE = os.environ.get("ARPG_WRITE_WIRE") == "1"

Json = dict[str, Any]
Case = Callable[["Wire"], tuple[str, Json]]
"""The path and the content of a request, which may need jobs of other cases."""


class Wire:
    """A client that draws each case once, and remembers it."""

    def __init__(self, client: httpx.Client, cases: Mapping[str, Case]) -> None:
        self.client = client
        self.cases = cases
        self.ids: dict[str, str] = {}  # of jobs, by case
        self.records: dict[str, Json] = {}

    def record(self, case: str) -> Json:
        """Everything that a client sees of the case's job."""
        if case not in self.records:
            self.submit(case)
            events = list(self.events(case))
            finished = self.client.get(f"/v1/jobs/{self.ids[case]}").json()
            assert finished["status"] == "succeeded", finished
            pictures = [picture_told(self.client.get(image["url"])) for image in finished["images"]]
            told = {"events": merged(events), "finished": finished, "pictures": pictures}
            self.records[case] = self.plain(told)
        return self.records[case]

    def submit(self, case: str) -> None:
        path, sent = self.cases[case](self)
        response = self.client.post(path, **sent)
        assert response.status_code in (200, 202), response.text  # it may have ended by now
        self.ids[case] = response.json()["id"]

    def id_of(self, case: str) -> str:
        """Of a job that has ended."""
        self.record(case)
        return self.ids[case]

    def id_of_running(self, case: str) -> str:
        """Of a job that has drawn two steps, and most likely no more than a few."""
        self.submit(case)
        for event in self.events(case):
            if event["event"] == "tokens" and event["data"]["step"] >= 2:
                return self.ids[case]
        raise AssertionError("it ended without a second step")

    def events(self, case: str) -> Iterator[Json]:
        with self.client.stream("GET", f"/v1/jobs/{self.ids[case]}/events") as response:
            yield from frames(response.iter_lines())

    def plain(self, told: Any, key: str = "") -> Any:
        """With names in place of what differs from run to run."""
        if isinstance(told, dict):
            return {name: self.plain(value, name) for name, value in told.items()}
        if isinstance(told, list):
            return [self.plain(value) for value in told]
        if key.endswith("_at") and isinstance(told, str):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", told), told
            return "TIME"
        if key == "eta_seconds":
            assert told is None or isinstance(told, float)
            return "ETA"
        if key.endswith("_seconds"):
            assert isinstance(told, float)
            return "SECONDS"
        if key == "request_id":
            return "REQUEST"
        if isinstance(told, str):
            for case, job in self.ids.items():
                told = told.replace(job, f"JOB {case}")
        return told


PREVIEW = {"image_index": int, "step": int, "format": str, "b64_json": str}


def merged(events: list[Json]) -> Json:
    """The stream of a job that was drawn once, however its tokens were split into events."""
    told = [event for event in events if event["event"] != "heartbeat"]
    ids = [tuple(map(int, event["id"].split("-"))) for event in told]
    assert ids == sorted(set(ids)), "ids increase"
    previews = [event["data"] for event in told if event["event"] == "preview"]
    for data in previews:  # whether a reader meets one is a matter of time: a finished job keeps none
        assert {name: type(value) for name, value in data.items()} == PREVIEW
    names = [event["event"] for event in told if event["event"] != "preview"]
    tokens = [event["data"] for event in told if event["event"] == "tokens"]
    drawn: dict[str, Json] = {}
    for data in tokens:
        assert len(data["positions"]) == len(data["tokens"])
        image = drawn.setdefault(str(data["image_index"]), {"positions": [], "tokens": []})
        image["positions"] += data["positions"]
        image["tokens"] += data["tokens"]
        image["last"] = {name: value for name, value in data.items() if name not in ("positions", "tokens")}
    shapes = sorted({shape(e) for e in told if e["event"] == "tokens"})
    return {
        "names": [*names[:2], *sorted(set(names[2:-1])), names[-1]],
        "attempts": [ids[0][0], *sorted({attempt for attempt, _ in ids[1:]})],
        "ends": [{**told[i], "id": "ID"} if i == -1 else told[i] for i in (0, 1, -1)],
        "tokens": shapes,
        "drawn": drawn,
    }


def shape(event: Json) -> str:
    """The members of an event and their kinds."""
    kinds = {name: type(value).__name__ for name, value in sorted(event["data"].items())}
    return json.dumps({"event": sorted(set(event) - {"retry"}), "data": kinds})


def picture_told(response: httpx.Response) -> Json:
    """What a stored picture is and says: its recipe as it stands, and its tokens as a map."""
    assert response.status_code == 200, response.text
    picture = Image.open(io.BytesIO(response.content))
    told: Json = {"type": response.headers["content-type"], "seed": response.headers.get("x-seed")}
    told["size"] = list(picture.size)
    if (text := picture.info.get("arpg")) is not None:
        recipe = json.loads(text)
        pixels = np.asarray(picture)
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        assert recipe["pixels"] == digest
        tokens = np.frombuffer(zlib.decompress(base64.b64decode(recipe["tokens"])), "<u2")
        told["map"] = tokens.reshape(recipe["grid"]).tolist()
        told["recipe"] = recipe | {"pixels": "DIGEST"}
    return told


def compare(name: str, told: Any) -> None:
    path = WIRE / f"{name}.json"
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(written(told) + "\n")
    assert told == json.loads(path.read_text()), f"{path.name} differs; the test's first lines say what to do"


def written(told: Any, indent: str = "") -> str:
    """JSON with sorted names and a line for each member, but what fits a line stays on it."""
    line = json.dumps(told, sort_keys=True)
    if len(indent) + len(line) <= 110 or not isinstance(told, dict | list) or not told:
        return line
    inner = indent + " "
    if isinstance(told, list):
        if all(isinstance(item, int) for item in told):
            return line
        parts, ends = [written(item, inner) for item in told], "[]"
    else:
        parts, ends = [f"{json.dumps(k)}: {written(told[k], inner)}" for k in sorted(told)], "{}"
    return ends[0] + "\n" + ",\n".join(inner + part for part in parts) + "\n" + indent + ends[1]
