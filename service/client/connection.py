"""What both clients pass to httpx."""

from __future__ import annotations

import os
from typing import Any

import httpx

from service.client.calls import Call
from service.client.errors import APIConnectionError
from service.client.stream import READ_SECONDS

BASE_URL = "http://127.0.0.1:8000"
TIMEOUT = 30.0
MAX_RETRIES = 2
MAX_RECONNECTS = 10


def options(base_url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    """Of an httpx client. Raises ValueError."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"base_url: {base_url} is no address: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"base_url: must begin with http:// or https://, such as {BASE_URL}; it is {base_url!r}")
    key = api_key or os.environ.get("ARPG_API_KEY")
    headers = {"User-Agent": "arpg-client"} | ({"Authorization": f"Bearer {key}"} if key else {})
    return {"base_url": url, "headers": headers, "timeout": timeout}


def arguments(call: Call) -> dict[str, Any]:
    """Of `request` and `stream`."""
    sent: dict[str, Any] = {"method": call.method, "url": call.path, "headers": dict(call.headers)}
    if call.query:
        sent["params"] = dict(call.query)
    if call.json is not None:
        sent["json"] = dict(call.json)
    if call.files is not None:
        sent["data"] = dict(call.texts or {})
        sent["files"] = {name: (name, content) for name, content in call.files.items()}
    return sent


def stream_timeout(client: httpx.Client | httpx.AsyncClient) -> httpx.Timeout:
    own = client.timeout
    return httpx.Timeout(connect=own.connect, write=own.write, pool=own.pool, read=READ_SECONDS)


def lost(base_url: httpx.URL, failure: httpx.HTTPError) -> APIConnectionError:
    what = str(failure) or type(failure).__name__
    if isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout):
        remedy = "check the address, and that a server runs there (arpg serve)"
        return APIConnectionError(f"no server answers at {base_url}: {what}; {remedy}")
    return APIConnectionError(f"the connection to {base_url} was lost: {what}")
