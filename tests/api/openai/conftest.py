"""The official client, for the module's server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.api.openai.official import openai_client
from tests.support.api import Api


@pytest.fixture
def client(api: Api) -> Iterator[OpenAI]:
    with openai_client(api.url) as client:
        yield client
