"""A client that openapi-python-client generates from the served description works, and nothing is left out of it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType
from PIL import Image

from service.settings import Settings
from service.tasks.pictures.images import MEDIA_TYPES
from tests.api.description.at_once import AtOnce
from tests.support.api import CARD, Api, noise, png, running_api
from tests.support.keys import new_key

PACKAGE = "generated_arpg_client"

# The generator knows no pictures; it has to be told that they are bytes.
BYTES = dict.fromkeys(MEDIA_TYPES.values(), "application/octet-stream")


@dataclass(frozen=True)
class Generated:
    """client: with a key. The modules are those of the package, by their names in it."""

    api: Api
    folder: Path
    errors: list[Any]
    key: str

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{PACKAGE}.{name}")

    @property
    def models(self) -> Any:
        return self.module("models")

    @property
    def client(self) -> Any:
        return self.module("client").AuthenticatedClient(base_url=self.api.url, token=self.key)

    def call(self, operation: str, *arguments: Any, client: Any = None, **more: Any) -> Any:
        """The parsed response. operation: its tag and its name."""
        return self.module(f"api.{operation}").sync(*arguments, client=client or self.client, **more)


@pytest.fixture(scope="module")
def generated(redis_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generated]:
    folder = tmp_path_factory.mktemp("client")
    key = new_key(folder / "keys.jsonl", "ann")
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="generated", keys_file=folder / "keys.jsonl", _env_file=None
    )
    with running_api(settings, key) as api, AtOnce(settings), pytest.MonkeyPatch.context() as patch:
        api.show_card()
        config = Config.from_sources(
            ConfigFile(post_hooks=[], content_type_overrides=BYTES),
            MetaType.NONE,
            document_source=f"{api.url}/openapi.json",
            file_encoding="utf-8",
            overwrite=False,
            output_path=folder / PACKAGE,
        )
        errors = list(generate(config=config))
        patch.syspath_prepend(folder)
        yield Generated(api, folder / PACKAGE, errors, key)
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]


def test_nothing_is_left_out(generated: Generated) -> None:
    assert [(error.header, error.detail) for error in generated.errors] == []
    document = generated.api.client.get("/openapi.json").json()
    operations = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    made = {path.stem for path in (generated.folder / "api").glob("*/*.py")} - {"__init__"}
    assert made == operations
    assert set(document["components"]["schemas"]) <= set(generated.models.__all__)


def test_it_draws_waits_forks_and_gets_the_picture(generated: Generated) -> None:
    models = generated.models
    body = models.GenerateRequest(class_="cone", n=2, seed=2**62)
    job = generated.call("tasks.generate", body=body)
    assert isinstance(job, models.JobObject)
    assert job.request.seed == 2**62
    waited = generated.call("tasks.generate", body=body, prefer="wait=20")
    assert (waited.status, len(waited.images)) == (models.JobObjectStatus.SUCCEEDED, 2)
    assert generated.call("jobs.get_job", waited.id).to_dict() == waited.to_dict()

    forked = generated.call("jobs.fork", waited.id, body=models.ForkRequest(step=1, image_index=1), prefer="wait=20")
    assert forked.status == models.JobObjectStatus.SUCCEEDED
    assert forked.fork == models.Fork(job=waited.id, image=1, step=1)

    image = generated.call("jobs.get_image", forked.id, 0)
    assert Image.open(BytesIO(image.payload.read())).size == (CARD.width, CARD.height)
    assert [model.id for model in generated.call("models.list_models").models] == [CARD.name]


def test_it_sends_files(generated: Generated) -> None:
    models, file = generated.models, generated.module("types").File
    picture = file(BytesIO(png(noise(32, 32))), file_name="picture.png", mime_type="image/png")
    body = models.OutpaintForm(image=picture, left=8)
    job = generated.call("tasks.outpaint", body=body, prefer="wait=20")
    assert isinstance(job, models.JobObject), job
    assert (job.status, job.padding.left) == (models.JobObjectStatus.SUCCEEDED, 8)


def test_it_reads_errors(generated: Generated) -> None:
    models = generated.models
    problem = generated.call("tasks.generate", body=models.GenerateRequest(class_="unicorn"))
    assert isinstance(problem, models.ProblemDocument)
    assert (problem.status, problem.code) == (422, "unknown_class")
    [error] = problem.errors
    assert (error.in_, error.field) == (models.InvalidFieldIn.BODY, "class")
    assert error.message
    assert generated.call("jobs.get_job", "nobody").code == "unknown_job"
    wrong = generated.module("client").AuthenticatedClient(base_url=generated.api.url, token="wrong")
    assert generated.call("models.list_models", client=wrong).code == "key_invalid"
    nobody = generated.module("client").Client(base_url=generated.api.url)
    assert generated.call("models.list_models", client=nobody).status == 401
