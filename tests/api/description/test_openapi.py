"""The API is what its description says: no answer that is not described, and none is the server's own failure.

schemathesis makes requests from /openapi.json, good ones and bad ones, the same in every run; a worker of a few lines
finishes every job at once. Event streams are held elsewhere: they would not end.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.api.openai.errors import PREFIX as OPENAI
from service.api.problems import MEDIA_TYPE
from service.server.app import create_app
from service.settings import Settings
from tests.api.description.at_once import AtOnce
from tests.support.api import CARD, Api, noise, png, running_api

T = TypeVar("T")

EXAMPLES = 20
PICTURE = png(noise(32, 32))
MASK = png(noise(32, 32, channels=1))
TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
ACCEPTED = (*[None] * 6, "application/json", "image/png", "image/webp;q=0.5, */*;q=0.1", "text/html", "q=;,")


@pytest.fixture(scope="module")
def served(redis_socket: Path) -> Iterator[Api]:
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="openapi", max_wait=5, picture_wait=5, _env_file=None
    )
    with running_api(settings) as api, AtOnce(settings):
        api.show_card()
        yield api


@pytest.fixture(scope="module")
def jobs(served: Api) -> Sequence[str]:
    """A job in each of the states; of a model that nobody draws, where it is not to go on."""
    served.show_card(CARD, replace(CARD, name="idle"))
    queued, running, failed, canceled = (served.generate(model="idle")["id"] for _ in range(4))
    served.client.delete(f"/v1/jobs/{canceled}")
    held = {claim.id: claim for claim in (served.claim("idle") for _ in range(3))}
    error = {"code": "engine_failed", "message": "for the test"}
    ended: dict[str, Any] = {"state": "failed", "event": "failed", "data": {"error": error}, "error": error}
    served.queue(lambda queue, _, __: queue.finish(failed, held[failed].attempt, 1, **ended))
    served.queue(lambda queue, _, __: queue.release(queued, held[queued].attempt))
    drawn = served.client.post("/v1/generate", json={"model": CARD.name, "n": 2}, headers={"Prefer": "wait=5"}).json()
    found = {id: served.client.get(f"/v1/jobs/{id}").json()["status"] for id in (queued, running, failed, canceled)}
    assert list(found.values()) == ["queued", "running", "failed", "canceled"]
    assert drawn["status"] == "succeeded"
    return [*found, drawn["id"]]


def described() -> Any:
    """What the server says of itself, without the `default` response: that would describe every status there is."""
    raw = create_app(Settings(redis_url="redis://nowhere", _env_file=None)).openapi()
    for operations in raw["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("default", None)
    return schemathesis.openapi.from_dict(without_prefix_items(raw))


def without_prefix_items(schema: Any) -> Any:
    """Pairs of one kind as arrays of that kind: schemathesis rewrites `prefixItems` to what its validator refuses."""
    if isinstance(schema, list):
        return [without_prefix_items(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    told = {name: without_prefix_items(part) for name, part in schema.items()}
    if prefix := told.pop("prefixItems", None):
        assert all(item == prefix[0] for item in prefix)
        told["items"] = prefix[0]
    return told


schema = described().exclude(path_regex="/events$")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_described_and_none_is_the_servers_failure(
    case: schemathesis.Case, served: Api, jobs: Sequence[str]
) -> None:
    told_what_exists(case, jobs)
    case.call_and_validate(
        base_url=served.url,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
            errors_are_problems,
        ],
    )


def errors_are_problems(ctx: Any, response: Any, case: schemathesis.Case) -> None:
    if response.status_code >= 400:
        kind = response.headers["content-type"][0]
        if case.path.startswith(OPENAI):
            assert (kind, response.json().keys()) == ("application/json", {"error"})
            return
        assert kind == MEDIA_TYPE, f"{response.status_code} is told as {kind}"
        assert response.json()["status"] == response.status_code


def told_what_exists(case: schemathesis.Case, jobs: Sequence[str]) -> None:
    """What no description tells: most requests name a job and a class that there are, send a picture that is one, and
    say what they accept. Which ones do follows from the request itself, so that it is the same every time."""
    chance = Chance(repr((case.method, case.path_parameters, case.query, case.body)))
    if "id" in case.path_parameters and chance.of(3, 4):
        case.path_parameters["id"] = chance.among(jobs)
    if "model" in case.path_parameters and chance.of(3, 4):
        case.path_parameters["model"] = CARD.name
    if "Idempotency-Key" in case.headers and chance.of(3, 4):
        case.headers["Idempotency-Key"] = f"key-{chance.among(range(50))}"
    if (accept := chance.among(ACCEPTED)) is not None and case.path.startswith("/v1/"):
        case.headers["Accept"] = accept
    if str(case.query.get("canary")).lower() in TRUE:  # it would wait for the model that nobody draws
        case.query["canary"] = False
    if isinstance(case.body, dict) and chance.of(7, 8):
        uploaded = case.media_type == "multipart/form-data"
        for field, file in (("image", PICTURE), ("mask", MASK)):
            if case.body.get(field):
                case.body[field] = file if uploaded else base64.b64encode(file).decode()  # type: ignore[assignment]
        if not uploaded and "image" in case.body and "source" in case.body:
            del case.body[chance.among(("image", "source"))]
        if isinstance(source := case.body.get("source"), dict) and "job" in source:
            source["job"] = chance.among(jobs)
        if case.path.startswith(OPENAI):
            case.body["prompt"] = chance.among(("cone", "ball", "3"))
            case.body.pop("order", None)
            for field in ("model", "size", "partial_images") if chance.of(3, 4) else ():
                case.body.pop(field, None)
        elif "step" not in case.body:  # not a fork
            case.body |= {"model": CARD.name, "class": chance.among(("cone", "ball", 3))}
            case.body.pop("order", None)


class Chance:
    """Dice that fall as the text says."""

    def __init__(self, text: str) -> None:
        self._random = Random(text)

    def of(self, share: int, whole: int) -> bool:
        return self._random.randrange(whole) < share

    def among(self, choices: Sequence[T]) -> T:
        return self._random.choice(choices)
