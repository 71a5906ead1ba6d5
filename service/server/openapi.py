"""The OpenAPI document, as generators of clients need it.

They name classes after the titles of schemas, and drop a route when two schemas have one title; they read a response as
the first of its media types. So every object is a component whose title is its own name, and JSON comes first.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api import sse
from service.api.openai.schemas import ImageEditForm, ImageGenerationRequest
from service.api.problems import MEDIA_TYPE, ProblemDocument
from service.auth.sessions import COOKIE
from service.tasks.fork import ForkRequest
from service.tasks.registry import TASKS

LICENCE = {"name": "Apache License 2.0", "identifier": "Apache-2.0"}

TAGS = [
    {"name": "tasks", "description": "Draw pictures, or edit them."},
    {"name": "jobs", "description": "Follow a job, cancel it, fork it, and get its pictures."},
    {"name": "openai", "description": "The same, as OpenAI's images API does it."},
    {"name": "models", "description": "The models that are served now."},
    {"name": "sessions", "description": "Access for browsers, which can't send a key with every request."},
    {"name": "health", "description": "For load balancers and orchestrators."},
]

_BODIES = [model for task in TASKS.values() for model in (task.request, task.form) if model is not None]
MODELS: tuple[type[BaseModel], ...] = (*_BODIES, ForkRequest, ImageGenerationRequest, ImageEditForm, ProblemDocument)
"""The schemas that FastAPI does not find: of the bodies that our routes read for themselves, and of errors."""

SECURITY_SCHEMES = {
    "BearerKey": {"type": "http", "scheme": "bearer", "description": "A key, as `arpg keys add` prints it."},
    "KeyHeader": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same key, for clients that can't set Authorization.",
    },
    "SessionCookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "For this server's own pages. `POST /v1/session` sets it in exchange for a key.",
    },
    "SignedAddress": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "Part of the addresses that `POST /v1/jobs/{id}/links` signs.",
    },
}
SECURITY: list[dict[str, list[str]]] = [{"BearerKey": []}, {"KeyHeader": []}, {"SessionCookie": []}, {}]
"""The empty one: no key is needed on loopback until the first one is added."""

WITHOUT_KEY = frozenset({"/healthz"})
SIGNED = frozenset({"/v1/jobs/{id}/events", "/v1/jobs/{id}/images/{index}"})

_REFERENCE = "#/components/schemas/{model}"
_FIRST, _LAST = ("application/json", MEDIA_TYPE), (sse.MEDIA_TYPE,)
_DATA = frozenset({"default", "enum", "const", "example", "examples"})  # not schemas


def finish(document: dict[str, Any]) -> None:
    """Changes FastAPI's document in place."""
    components = document.setdefault("components", {})
    _, ours = models_json_schema([(model, "validation") for model in MODELS], ref_template=_REFERENCE)
    schemas = ours["$defs"] | components.get("schemas", {})
    components["schemas"] = {name: {"title": name} | _untitled(schemas[name]) for name in sorted(schemas)}
    components["securitySchemes"] = SECURITY_SCHEMES
    document["security"] = SECURITY
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _summarise(operation)
            if path in WITHOUT_KEY:
                operation["security"] = []
            elif path in SIGNED:
                operation["security"] = [{"SignedAddress": []}, *SECURITY]
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _untitled(parameter["schema"])
            for described in (operation.get("requestBody", {}), *operation["responses"].values()):
                if "content" in described:
                    described["content"] = _content(described["content"])


def _summarise(operation: dict[str, Any]) -> None:
    """FastAPI makes the summary of a function's name. The first paragraph of its docstring is a sentence."""
    first, _, rest = operation.pop("description", "").strip().partition("\n\n")
    if first:
        operation["summary"] = " ".join(first.split())
    if rest:
        operation["description"] = rest


def _content(content: dict[str, Any]) -> dict[str, Any]:
    """JSON first, event streams last; schemas without titles."""
    order = sorted(content, key=lambda media: (media not in _FIRST, media in _LAST))
    return {
        media: {key: _untitled(value) if key == "schema" else value for key, value in content[media].items()}
        for media in order
    }


def _untitled(schema: Any) -> Any:
    """Without the titles and the null defaults that pydantic writes for every field."""
    if isinstance(schema, list):
        return [_untitled(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "properties":
            kept[key] = {name: _untitled(field) for name, field in value.items()}
        elif key in _DATA:
            if key != "default" or value is not None:
                kept[key] = value
        elif key != "title":
            kept[key] = _untitled(value)
    return kept
