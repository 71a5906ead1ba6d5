"""HEAD, and requests whose body has two lengths."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from tests.support.api import Api
from tests.support.waiting import PATIENCE, eventually

DIFFERENT = {"date", "x-request-id"}
"""Headers that no two responses share."""


def connected(api: Api) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=PATIENCE)


def said(api: Api, request: str) -> bytes:
    """All that the server sends until it closes the connection."""
    with connected(api) as connection:
        connection.sendall(request.encode())
        received = b""
        while part := connection.recv(65536):
            received += part
    return received


# ---- HEAD ----------------------------------------------------------------------------------------------------------


def get_routes(api: Api, job: dict[str, Any]) -> dict[str, str]:
    """The path of every GET route, with its parameters filled in."""
    described = api.app.openapi()["paths"]
    paths = [path for path, methods in described.items() if "get" in methods and "webhooks" not in path]  # they are off
    hidden = ["/", "/docs", "/openapi.json", "/metrics", "/playground/app.js"]
    return {
        path: path.replace("{id}", job["id"]).replace("{index}", "0").replace("{model}", "hand")
        for path in (*paths, *hidden)
    } | {"/v1/events": f"/v1/events?job={job['id']}"}


def test_every_get_route_answers_head_with_the_same_headers_and_no_body(api: Api) -> None:
    job = api.generate()
    api.draw(api.claim())
    routes = get_routes(api, job)
    assert len(routes) == 17
    for route, path in routes.items():
        expected = api.client.get(path)
        head = api.client.head(path)
        assert (head.status_code, expected.status_code) == (200, 200), route
        differ = DIFFERENT | ({"content-length"} if route == "/metrics" else set())  # each request is counted
        assert [(k, v) for k, v in head.headers.multi_items() if k not in differ] == [
            (k, v) for k, v in expected.headers.multi_items() if k not in differ
        ], route
        raw = said(api, f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 200"), route
        assert raw.partition(b"\r\n\r\n")[2] == b"", route
    for format in ("jpeg", "webp"):
        assert api.client.head(f"{job['urls']['self']}/images/0?format={format}").status_code == 200


def test_head_of_a_running_jobs_events_ends_at_once(api: Api) -> None:
    job = api.generate()
    head = api.client.head(job["urls"]["events"])
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert api.client.get("/healthz").status_code == 200  # on the same connection
    streams = "arpg_http_streams"
    assert eventually(lambda: api.metrics.registry.get_sample_value(streams) == 0), "the stream goes on"


def test_head_is_refused_where_get_is(api: Api) -> None:
    for path, status in (("/v1/jobs/nobody", 404), ("/v1/generate", 405), ("/v1/models/hand/classes?limit=0", 422)):
        assert api.client.head(path).status_code == api.client.get(path).status_code == status
    assert api.client.put("/healthz").headers["allow"] == "GET, HEAD"
    series = 'arpg_http_requests_total{method="HEAD",route="/v1/jobs/{id}",status="404"} 1.0'
    assert series in api.client.get("/metrics").text


def test_the_description_has_no_head(api: Api) -> None:
    methods = {method for operations in api.app.openapi()["paths"].values() for method in operations}
    assert methods == {"get", "post", "delete"}


# ---- two lengths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/vary", "/v1/session", "/healthz", "/nothing"])
@pytest.mark.parametrize("length_first", [True, False])
def test_a_body_with_two_lengths_is_refused_and_nothing_after_it_is_read(
    api: Api, path: str, length_first: bool
) -> None:
    lengths = "\r\n".join(sorted(("Content-Length: 5", "Transfer-Encoding: chunked"), reverse=not length_first))
    hidden = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{lengths}\r\n\r\n"
    received = said(api, f"{head}2\r\n{{}}\r\n0\r\n\r\n{hidden}")
    assert received.startswith(b"HTTP/1.1 400")
    assert received.lower().count(b"x-request-id:") == 1
    assert b"connection: close" in received.lower()
    assert b"Transfer-Encoding" in received.partition(b"\r\n\r\n")[2]


def test_http_1_0_has_no_transfer_encoding(api: Api) -> None:
    head = "POST /v1/generate HTTP/1.0\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert said(api, f"{head}2\r\n{{}}\r\n0\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_either_length_is_accepted(api: Api) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"{}", iter([b"{}"])):
        assert httpx.post(f"{api.url}/v1/generate", content=content, headers=headers).status_code == 202
