"""The measurement's HTTP client: one kept connection, as little work as possible."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from service.bench.mix import Drawn

PATIENCE = 300.0


class Failed(Exception):
    """The service answered with another status than 200."""


class Connection:
    def __init__(self, url: str, key: str | None = None) -> None:
        address = urlsplit(url)
        self._http = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
        self._headers = {"Content-Type": "application/json"} | (
            {} if key is None else {"Authorization": f"Bearer {key}"}
        )

    def get(self, path: str) -> bytes:
        return self._send("GET", path, None, {})

    def picture(self, request: Drawn) -> bytes:
        """The PNG of a request."""
        return self._send("POST", f"/v1/{request.task}", request.body, {"Accept": "image/png"})

    def job(self, request: Drawn, wait: int) -> dict[str, Any]:
        """The job, which has ended unless it takes longer than `wait` seconds."""
        answer = self._send("POST", f"/v1/{request.task}", request.body, {"Prefer": f"wait={wait}"})
        job: dict[str, Any] = json.loads(answer)
        return job

    def close(self) -> None:
        self._http.close()

    def _send(self, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str]) -> bytes:
        self._http.request(method, path, None if body is None else json.dumps(body), self._headers | headers)
        response = self._http.getresponse()
        content = response.read()
        if response.status not in (200, 202):
            raise Failed(f"{method} {path}: {response.status} {content[:200].decode(errors='replace')}")
        return content
