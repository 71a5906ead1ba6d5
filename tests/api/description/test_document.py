"""The OpenAPI document has what generators of clients, and people who read it, need."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from service.api.problems import MEDIA_TYPE
from service.api.sse import MEDIA_TYPE as EVENTS
from service.server.app import create_app
from service.settings import Settings

Json = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Json:
    return described()


def described(**settings: Any) -> Json:
    """As it is served: with the order of its members."""
    app = create_app(Settings(redis_url="redis://nowhere", _env_file=None, **settings))
    document: Json = json.loads(json.dumps(app.openapi()))
    assert json.loads(json.dumps(app.openapi())) == document, "the second request gets another document"
    return document


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def contents(document: Json) -> Iterator[tuple[str, Json]]:
    for name, operation in operations(document):
        for described in (operation.get("requestBody", {}), *operation["responses"].values()):
            if "content" in described:
                yield name, described["content"]


def test_no_two_schemas_have_one_title(document: Json) -> None:
    """Generators name their classes after titles. Of two with one name they drop one, and with it its routes."""
    titles = re.findall(r'"title": "([^"]*)"', json.dumps(document))
    assert sorted(titles) == sorted({document["info"]["title"], *document["components"]["schemas"]})
    assert document["components"]["schemas"]["ForkRequest"]["title"] == "ForkRequest"
    assert document["components"]["schemas"]["Fork"]["title"] == "Fork"


def test_objects_are_components(document: Json) -> None:
    inline = [name for name, content in contents(document) for one in content.values() if "properties" in one["schema"]]
    assert inline == []


def test_json_comes_first_and_event_streams_last(document: Json) -> None:
    """A generated client reads a response as the first media type that it knows."""
    several = [list(content) for _, content in contents(document) if len(content) > 1]
    assert several
    for medias in several:
        assert medias[0] in ("application/json", MEDIA_TYPE) or all(media.startswith("image/") for media in medias)
        assert EVENTS not in medias[:-1]
    assert list(document["paths"]["/v1/jobs/{id}/events"]["get"]["responses"]["200"]["content"]) == [EVENTS]


def test_every_problem_is_the_same_component(document: Json) -> None:
    problems = [content[MEDIA_TYPE]["schema"] for _, content in contents(document) if MEDIA_TYPE in content]
    assert len(problems) > 100
    assert all(schema == {"$ref": "#/components/schemas/ProblemDocument"} for schema in problems)
    errors = document["components"]["schemas"]["ProblemDocument"]["properties"]["errors"]
    assert errors["items"] == {"$ref": "#/components/schemas/InvalidField"}


def test_keys_and_sessions_are_security_schemes(document: Json) -> None:
    schemes = document["components"]["securitySchemes"]
    kinds = {name: (scheme["type"], scheme.get("scheme") or scheme["in"]) for name, scheme in schemes.items()}
    assert kinds == {
        "BearerKey": ("http", "bearer"),
        "KeyHeader": ("apiKey", "header"),
        "SessionCookie": ("apiKey", "cookie"),
        "SignedAddress": ("apiKey", "query"),
    }
    everywhere = {name for alternative in document["security"] for name in alternative}
    assert everywhere == {"BearerKey", "KeyHeader", "SessionCookie"}
    assert {} in document["security"], "a server on loopback needs no key"
    others = {name: operation["security"] for name, operation in operations(document) if "security" in operation}
    signed = [{"SignedAddress": []}, *document["security"]]
    events, image = "GET /v1/jobs/{id}/events", "GET /v1/jobs/{id}/images/{index}"
    assert others == {"GET /healthz": [], events: signed, image: signed}


@pytest.mark.parametrize(("root_path", "url"), [("", "/"), ("/art", "/art")])
def test_it_names_its_server_and_its_licence(root_path: str, url: str) -> None:
    document = described(root_path=root_path)
    assert [server["url"] for server in document["servers"]] == [url]
    assert document["info"]["license"] == {"name": "Apache License 2.0", "identifier": "Apache-2.0"}


def test_every_summary_is_a_sentence(document: Json) -> None:
    for name, operation in operations(document):
        summary = operation["summary"]
        assert re.fullmatch(r"[A-Z][^\n]+\.", summary), (name, summary)
        assert len(summary.split()) > 4, (name, summary)
        assert not operation.get("description", "").startswith(summary), name
    tags = {tag for _, operation in operations(document) for tag in operation["tags"]}
    assert tags == {tag["name"] for tag in document["tags"]}
    assert all(tag["description"].endswith(".") for tag in document["tags"])
