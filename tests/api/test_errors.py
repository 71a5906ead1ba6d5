"""Every error has one shape, an id to ask about, and gives nothing away; every response carries its headers."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from service.server import app as app_module
from service.server.auth_middleware import _local_name
from service.settings import Settings
from tests.support.api import Api, noise, png, running_api

MEMBERS = {"type", "title", "status", "detail", "instance", "code", "request_id"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/models/nobody", 404, "unknown_model"),
        ("GET", "/v1/models/nobody/palette", 404, "unknown_model"),
        ("PUT", "/v1/generate", 405, "method_not_allowed"),
        ("GET", "/playground/../app.py", 404, "not_found"),
        ("GET", "/playground/%2e%2e/app.py", 404, "not_found"),
        ("GET", "/v1/models/hand/classes?limit=0", 422, "invalid"),
    ],
)
def test_every_refusal_is_a_problem(api: Api, method: str, path: str, status: int, code: str) -> None:
    response = api.client.request(method, path)
    body = response.json()
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert body.keys() >= MEMBERS
    assert body["request_id"] == response.headers["x-request-id"]
    if status == 405:
        assert response.headers["allow"] == "POST"


def test_broken_json_says_where(api: Api) -> None:
    for path in ("/v1/generate", "/v1/inpaint"):
        response = api.client.post(path, content='{"class": ', headers={"Content-Type": "application/json"})
        assert (response.status_code, response.json()["code"]) == (400, "invalid_json")
    response = api.client.post("/v1/generate", content="[]", headers={"Content-Type": "application/json"})
    assert response.status_code == 422


@pytest.mark.parametrize("field", ["order", "n", "temperature"])
def test_brackets_in_brackets_are_a_bad_field_and_no_crash(api: Api, field: str) -> None:
    nested = "[" * 100_000
    picture = {"image": b"", "mask": b""}
    response = api.client.post("/v1/inpaint", data={field: nested}, files=picture)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, field)
    assert api.client.post("/v1/inpaint", json={field: [nested]}).status_code == 422
    body = f'{{"{field}": {nested}'
    response = api.client.post("/v1/generate", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400


def test_what_was_sent_is_not_repeated_back(api: Api) -> None:
    secret = "<script>secret</script>"
    for body in ({"class": secret}, {secret: 1}, {"n": secret}, {"model": secret}, {"schedule": secret}):
        response = api.client.post("/v1/generate", json=body)
        assert response.status_code == 422
        if secret not in body:  # a field that does not exist can only be named
            assert secret not in response.text


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large_is_refused_and_the_client_hears_why(api: Api, chunked: bool) -> None:
    size = api.settings.max_body_bytes + 1

    def pieces() -> Iterator[bytes]:
        for _ in range(0, size, 2**16):
            yield b"x" * 2**16

    content = pieces() if chunked else b"x" * size
    response = api.client.post("/v1/inpaint", content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert api.client.get("/healthz").status_code == 200


def test_a_client_that_reads_only_after_it_has_sent_all_hears_why_too(api: Api) -> None:
    size = 16 * 2**20  # more than the sockets hold
    head = "POST /v1/inpaint HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {size}\r\n\r\n"
    address = ("127.0.0.1", int(api.url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head.encode() + b"x" * size)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_an_unforeseen_error_gives_an_id_and_no_trace(
    redis_socket: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = app_module.create_app

    def with_a_bug(settings: Settings, **more: object) -> FastAPI:
        app = made(settings, **more)  # type: ignore[arg-type]

        @app.get("/bug")
        async def bug() -> None:
            raise RuntimeError("the password is swordfish")

        return app

    monkeypatch.setattr("tests.support.api.create_app", with_a_bug)
    with running_api(Settings(redis_url=f"unix://{redis_socket}", _env_file=None)) as api:
        response = api.client.get("/bug", headers={"X-Request-ID": "ask-me"})
        assert api.client.get("/healthz").status_code == 200
        series = 'arpg_http_requests_total{method="GET",route="/bug",status="500"} 1.0'
        assert series in api.client.get("/metrics").text
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.json()["request_id"] == response.headers["x-request-id"] == "ask-me"
    assert "swordfish" not in response.text
    assert "Traceback" not in response.text
    assert "ask-me" in caplog.text


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ("x" * 65, False), ("a b", False), ("", False)])
def test_a_request_id_is_kept_when_it_is_sane(api: Api, given: str, kept: bool) -> None:
    answered = api.client.get("/healthz", headers={"X-Request-ID": given}).headers["x-request-id"]
    assert (answered == given) is kept
    assert answered


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models", "/nothing", "/playground/app.js", "/docs"])
def test_every_response_carries_the_security_headers(api: Api, path: str) -> None:
    headers = api.client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "://" not in policy


def test_a_page_of_another_site_can_neither_draw_nor_cancel(api: Api) -> None:
    job = api.generate()
    foreign = {"Sec-Fetch-Site": "cross-site"}
    picture = {"image": png(noise(8, 8)), "mask": png(noise(8, 8))}
    for response in (
        api.client.post("/v1/inpaint", files=picture, headers=foreign),  # what a plain form can send
        api.client.post("/v1/generate", json={}, headers=foreign),
        api.client.delete(job["urls"]["cancel"], headers=foreign),
    ):
        body = response.json()
        assert (response.status_code, body["code"]) == (403, "cross_site")
        assert response.headers["content-type"] == "application/problem+json"
        assert body["request_id"] == response.headers["x-request-id"]
    assert api.client.get(job["urls"]["self"], headers=foreign).json()["status"] == "queued"
    assert api.queue(lambda q, _, __: q.depth("hand")) == 1
    for site in ("same-origin", "none"):
        own = {"Sec-Fetch-Site": site}
        asked = api.client.post("/v1/generate", json={}, headers=own)
        assert asked.status_code == 202
        assert api.client.delete(asked.headers["location"], headers=own).json()["status"] == "canceled"


def test_without_keys_a_server_goes_by_no_name_but_this_machines(api: Api) -> None:
    port = api.url.rpartition(":")[2]
    for host in ("localhost", f"LOCALHOST:{port}", "127.0.0.1", f"127.0.0.2:{port}", "[::1]", "[::1]:80"):
        assert api.client.get("/v1/models", headers={"Host": host}).status_code == 200, host
    strangers = (
        "evil.example",
        f"evil.example:{port}",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "x@localhost",
    )
    for host in strangers:
        for path in ("/v1/models", "/metrics", "/", "/readyz?canary=1"):
            refused = api.client.get(path, headers={"Host": host})
            assert (refused.status_code, refused.json()["code"]) == (403, "foreign_host"), (host, path)
        assert api.client.post("/v1/generate", json={}, headers={"Host": host}).status_code == 403
    assert api.queue(lambda q, _, __: q.depth("hand")) == 0
    assert _local_name("art:8000", "ART")  # what it was told to listen at


def test_a_page_on_another_port_of_this_machine_can_neither_draw_nor_cancel(api: Api) -> None:
    job = api.generate()
    for origin in ("http://localhost:3000", "http://127.0.0.1", "null", "https://evil.example"):
        foreign = {"Origin": origin, "Sec-Fetch-Site": "same-site"}
        for response in (
            api.client.post("/v1/generate", json={}, headers=foreign),
            api.client.delete(job["urls"]["cancel"], headers=foreign),
            api.client.get("/readyz?canary=1", headers=foreign),
        ):
            assert (response.status_code, response.json()["code"]) == (403, "cross_site")
        assert api.client.get(job["urls"]["self"], headers=foreign).json()["status"] == "queued"
    # An <img> has no Origin.
    for site in ("same-site", "cross-site"):
        assert api.client.get("/readyz?canary=1", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert api.queue(lambda q, _, __: q.depth("hand")) == 1
    for own in (api.url, api.url.replace("http:", "https:")):  # the latter before a proxy that speaks TLS
        assert api.client.delete(job["urls"]["cancel"], headers={"Origin": own}).status_code == 200


def test_other_sites_get_no_leave_to_ask_unless_they_are_named(redis_socket: Path, api: Api) -> None:
    named, other = {"Origin": "https://a.example"}, {"Origin": "https://b.example"}
    for path in ("/v1/models", "/healthz"):
        assert "access-control-allow-origin" not in api.client.get(path, headers=named).headers
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert api.client.options("/v1/generate", headers=named | asks).status_code == 405
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="cors", cors_origins="https://a.example", _env_file=None
    )
    foreign = {"Sec-Fetch-Site": "cross-site"}
    with running_api(settings) as open_to_one:
        open_to_one.show_card()
        client = open_to_one.client
        allowed = client.options("/v1/generate", headers=named | asks | foreign)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-credentials" not in allowed.headers
        drawn = client.post("/v1/generate", json={}, headers=named | foreign)
        assert (drawn.status_code, drawn.headers["access-control-allow-origin"]) == (202, "https://a.example")
        assert "location" in drawn.headers["access-control-expose-headers"].lower()
        refused = client.options("/v1/generate", headers=other | asks)
        assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (400, False)
        assert client.post("/v1/generate", json={}, headers=other | foreign).status_code == 403
        open_to_one.empty()
    for origins in ("*", "a.example", "https://a.example/path", "null"):
        with pytest.raises(ValidationError, match="cors_origins"):
            Settings(cors_origins=origins, _env_file=None)


def test_http_is_counted_by_route_and_not_by_path(api: Api) -> None:
    for index in range(3):
        api.client.get(f"/v1/jobs/made-up-{index}")
        api.client.get(f"/made/up/{index}")
    text = api.client.get("/metrics").text
    assert 'arpg_http_requests_total{method="GET",route="/v1/jobs/{id}",status="404"} 3.0' in text
    assert "made" not in text


def test_models_classes_and_palette(api: Api) -> None:
    [model] = api.client.get("/v1/models").json()["models"]
    assert (model["id"], model["grid"], model["width"], model["workers"]) == ("hand", [4, 4], 32, 1)
    assert model == api.client.get(model["urls"]["self"]).json()
    found = api.client.get(model["urls"]["classes"], params={"q": "BALL"}).json()
    assert found == {"classes": [{"label": 0, "name": "sphere", "synonyms": ["ball"], "wordnet_id": None}], "total": 1}
    assert [c["label"] for c in api.client.get(model["urls"]["classes"] + "?q=7").json()["classes"]] == [7]
    limited = api.client.get(model["urls"]["classes"] + "?limit=3").json()
    assert (len(limited["classes"]), limited["total"]) == (3, 8)
    palette = api.client.get(model["urls"]["palette"]).json()
    assert (palette["codes"], palette["height"], palette["width"], len(palette["rgb"])) == (8, 4, 4, 512)


def test_the_description_names_every_route_once(api: Api) -> None:
    description = api.client.get("/openapi.json").json()
    assert set(description["paths"]) == {
        "/v1/generate", "/v1/expand", "/v1/inpaint", "/v1/outpaint", "/v1/vary", "/v1/jobs/{id}", "/v1/jobs/{id}/fork",
        "/v1/events", "/v1/load",
        "/v1/jobs/{id}/links", "/v1/session", "/v1/jobs/{id}/events", "/v1/jobs/{id}/images/{index}",
        "/v1/models", "/v1/models/{model}", "/v1/models/{model}/classes", "/v1/models/{model}/palette",
        "/healthz", "/readyz", "/v1/jobs", "/v1/webhooks/secret", "/v1/images/generations", "/v1/images/edits",
    }  # fmt: skip
    operations = [op for path in description["paths"].values() for op in path.values()]
    names = [op["operationId"] for op in operations]
    assert len(set(names)) == len(names)
    for path, methods in description["paths"].items():
        kind = "application/json" if path.startswith("/v1/images/") else "application/problem+json"
        assert all(kind in op["responses"]["default"]["content"] for op in methods.values()), path
    for path in ("/v1/inpaint", "/v1/outpaint", "/v1/vary"):
        bodies = description["paths"][path]["post"]["requestBody"]["content"]
        assert set(bodies) == {"application/json", "multipart/form-data"}
        form = bodies["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
        assert "class" in description["components"]["schemas"][form]["properties"]
        assert bodies["application/json"]["examples"]


def test_the_description_refers_to_nothing_that_is_not_in_it(api: Api) -> None:
    description = api.client.get("/openapi.json").json()
    for name in set(re.findall(r'"\$ref": ?"([^"]*)"', json.dumps(description))):
        found = description
        for step in name.removeprefix("#/").split("/"):
            assert step in found, name
            found = found[step]


def test_the_front_end_knows_no_torch() -> None:
    script = "import sys, service.server.app, service.cli.main, service.server.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
