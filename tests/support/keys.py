"""What the tests of API keys share: a server that needs them, and three keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from service.auth import key_store, keys
from tests.support.api import Api
from tests.support.waiting import PATIENCE


class Keyed:
    """The server, the file of its keys, and the keys by whose they are."""

    def __init__(self, api: Api, path: Path, texts: dict[str, str]) -> None:
        self.api, self.path, self.texts = api, path, texts

    def ask(self, who: str | None, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.texts[who]}"} if who else {}
        with httpx.Client(base_url=self.api.url, timeout=PATIENCE) as client:
            return client.request(method, path, headers=headers | more.pop("headers", {}), **more)

    def finished(self, who: str) -> dict[str, Any]:
        response = self.ask(who, "POST", "/v1/generate", json={})
        assert response.status_code == 202, response.text
        self.api.draw(self.api.claim())
        job: dict[str, Any] = response.json()
        return job


def new_key(path: Path, name: str, **limits: Any) -> str:
    text, key = keys.make(name, **limits)
    key_store.add(path, key)
    return text


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]
