"""The client's types are those of the API, and the package is light."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from service.client import Image, Job, Model, fields
from service.client.calls import FORMATS, HEADERS
from service.client.fields import Options
from tests.support.processes import REPOSITORY

SCHEMAS: dict[str, Any] = json.loads((REPOSITORY / "tests/golden/wire/openapi.json").read_text())["components"][
    "schemas"
]

ARGUMENTS = {"ExpandRequest": {"width", "height"}, "ForkRequest": {"step"}}
"""Fields that are no keywords: positional arguments of the method."""


@pytest.mark.parametrize("task", ["Generate", "Expand", "Inpaint", "Outpaint", "Vary", "Fork"])
def test_a_request_takes_the_fields_of_the_api(task: str) -> None:
    schema = SCHEMAS[f"{task}Request"]["properties"]
    hints = get_type_hints(getattr(fields, f"{task}Fields"))
    known = {name.removesuffix("_"): kind for name, kind in hints.items() if name not in HEADERS}
    given = ARGUMENTS.get(f"{task}Request", set()) | {"image", "source", "mask"}
    assert known.keys() == schema.keys() - given
    for name, kind in known.items():
        choices = {
            choice for part in (kind, *get_args(kind)) if get_origin(part) is Literal for choice in get_args(part)
        }
        described = [schema[name], *schema[name].get("anyOf", ())]
        assert choices == {choice for one in described for choice in one.get("enum", ())}, name


def test_the_options_are_the_headers_of_a_request() -> None:
    assert get_type_hints(Options).keys() == HEADERS.keys()


@pytest.mark.parametrize(("kind", "schema"), [(Job, "JobObject"), (Model, "ModelObject"), (Image, "JobImage")])
def test_what_the_server_tells_has_the_names_of_the_api(kind: type, schema: str) -> None:
    known = {field.name for field in dataclasses.fields(kind)} - {"data"}
    assert known <= SCHEMAS[schema]["properties"].keys()
    # The rest is for playgrounds and operators; it is in `data`.
    assert SCHEMAS[schema]["properties"].keys() - known <= {
        "start_by", "padding", "fork", "mask_tokens", "urls", "webhook", "object", "created", "owned_by", "workers",
    }  # fmt: skip
    assert set(FORMATS.values()) == {"png", "jpeg", "webp"}


def test_the_client_imports_httpx_and_nothing_of_the_server() -> None:
    heavy = [
        "torch",
        "fastapi",
        "starlette",
        "redis",
        "pydantic",
        "numpy",
        "PIL",
        "engine",
        "service.api",
        "service.jobs",
    ]
    script = f"import sys, service.client; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
