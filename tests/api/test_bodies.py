"""The body of a request: its charset and encoding, its limits, and an error that stays short."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.api import bodies
from tests.support.api import Api, noise, png
from tests.support.waiting import PATIENCE, eventually

JSON = {"Content-Type": "application/json"}
PICTURED = ("/v1/inpaint", "/v1/outpaint", "/v1/vary")
PLAIN = ("/v1/generate", "/v1/expand", "/v1/jobs/nobody/fork")
MEBIBYTE = 2**20


def post(api: Api, path: str, content: bytes | Iterator[bytes], kind: str = "application/json") -> httpx.Response:
    return api.client.post(path, content=content, headers={"Content-Type": kind})


def refused(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


def part(name: bytes, value: bytes) -> bytes:
    return b'--B\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name, value)


def connected(api: Api) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=PATIENCE)


# ---- charsets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "undefined", "utf-16", "latin-1", '"PUNYCODE"', "utf-8;charset=utf-7"]
)
@pytest.mark.parametrize(
    ("path", "kind"), [("/v1/vary", "multipart/form-data; boundary=B"), ("/v1/vary", "application/json")]
    + [(path, "application/json") for path in PLAIN]
)  # fmt: skip
def test_another_charset_than_utf8_is_refused_before_the_body_has_arrived(
    api: Api, path: str, kind: str, charset: str
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}; charset={charset}\r\n"
    with connected(api) as connection:
        connection.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode())
        said = b""
        while not said.endswith(b"}"):
            said += connection.recv(65536)
    assert said.startswith(b"HTTP/1.1 415")
    assert b'"code":"unsupported_media_type"' in said
    assert b"charset" in said


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "utf8"])
def test_utf8_may_be_named(api: Api, charset: str) -> None:
    assert post(api, "/v1/generate", b"{}", f"application/json; charset={charset}").status_code == 202
    form = part(b"class", b"cone") + part(b'image"; filename="x', png(noise(32, 32))) + b"--B--\r\n"
    assert post(api, "/v1/vary", form, f"multipart/form-data; charset={charset}; boundary=B").status_code == 202


@pytest.mark.parametrize("field", [(b"class", b"\xff"), (b"cl\xffss", b"cone")])
def test_a_form_whose_texts_or_names_are_not_utf8_is_refused(api: Api, field: tuple[bytes, bytes]) -> None:
    response = post(api, "/v1/vary", part(*field) + b"--B--\r\n", "multipart/form-data; boundary=B")
    assert refused(response) == (400, "bad_request")
    assert "not UTF-8" in response.json()["detail"]


@pytest.mark.parametrize("path", [*PLAIN, *PICTURED])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_json_is_utf8_without_a_mark_on_every_route(api: Api, path: str, encoding: str) -> None:
    assert refused(post(api, path, '{"class": "café"}'.encode(encoding))) == (400, "invalid_json")


# ---- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PLAIN)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_a_picture_may_have_a_mebibyte(api: Api, path: str, chunked: bool) -> None:
    content = b" " * MEBIBYTE + b"{}"
    response = post(api, path, iter([content[:1000], content[1000:]]) if chunked else content)
    assert refused(response) == (413, "too_large")
    assert str(MEBIBYTE) in response.json()["detail"]
    assert post(api, path, content[2:]).status_code != 413


def test_the_largest_order_is_read(api: Api) -> None:
    response = api.client.post("/v1/generate", json={"order": [*range(2**16)]})
    assert response.json()["errors"][0]["code"] == "order", "it did not reach the plan"
    longer = api.client.post("/v1/generate", json={"order": [0] * (2**16 + 1)})
    assert longer.json()["errors"][0]["code"] == "too_long"


def test_the_texts_of_a_form_may_have_a_mebibyte_together(api: Api) -> None:
    form = b"".join(part(b"f%d" % index, b"x" * 2**18) for index in range(4))
    assert refused(post(api, "/v1/vary", form + b"--B--\r\n", "multipart/form-data; boundary=B"))[0] == 422
    response = post(api, "/v1/vary", form + part(b"f5", b"x") + b"--B--\r\n", "multipart/form-data; boundary=B")
    assert refused(response) == (413, "too_large")
    assert str(MEBIBYTE) in response.json()["detail"]


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=B"])
def test_a_body_with_more_values_than_any_request_needs_is_not_parsed(api: Api, kind: str) -> None:
    values = b"[%b[]]" % (b"[]," * 100_000)
    content = b'{"n": %b}' % values if kind == "application/json" else part(b"n", values) + b"--B--\r\n"
    assert refused(post(api, "/v1/vary", content, kind)) == (413, "too_large")


def test_the_servers_own_limit_is_named(api: Api) -> None:
    response = post(api, "/v1/vary", b" " * (api.settings.max_body_bytes + 1))
    assert refused(response) == (413, "too_large")
    assert str(api.settings.max_body_bytes) in response.json()["detail"]


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/vary"])
def test_an_answer_lists_twenty_errors_and_says_how_many_more_there_are(api: Api, path: str) -> None:
    fields = {"n": "two"} | {str(index): 1 for index in range(60_000)}
    response = api.client.post(path, json=fields)
    problem = response.json()
    assert response.status_code == 422
    assert [error["field"] for error in problem["errors"]] == ["n", *map(str, range(19))]
    assert "and 59998 more" in problem["detail"]
    assert "60001 in all" in problem["detail"]
    few = api.client.post(path, json={str(index): 1 for index in range(20)}).json()
    assert len(few["errors"]) == 20
    assert few["detail"].endswith("and 17 more")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/generate", "promt: no such field; did you mean prompt?"),
        ("/v1/vary", "promt: no such field; did you mean prompt?"),
        ("/v1/images/generations", "promt: no such field; did you mean prompt?"),
        ("/v1/generate", "zzzz: no such field"),
    ],
)
def test_an_unknown_field_is_told_with_the_name_that_resembles_it(api: Api, path: str, said: str) -> None:
    needed = {"prompt": "cone"} if "images" in path else {}
    told = api.client.post(path, json=needed | {said.partition(":")[0]: "a"}).json()
    assert (told["error"]["message"] if "images" in path else told["detail"]) == said


@pytest.mark.parametrize(
    "fields", [{"order": [[]] * 65_000}, {"x" * 500_000: 1}, {"source": {str(index): 1 for index in range(60_000)}}]
)
@pytest.mark.parametrize("path", ["/v1/generate", "/v1/vary"])
def test_an_error_is_short_whatever_was_sent(api: Api, path: str, fields: dict[str, Any]) -> None:
    response = api.client.post(path, json=fields)
    assert response.status_code == 422
    assert len(response.content) < 4000


def test_a_long_name_of_a_form_is_shortened(api: Api) -> None:
    form = part(b"x" * 3000, b"1") * 2 + b"--B--\r\n"
    response = post(api, "/v1/vary", form, "multipart/form-data; boundary=B")
    assert response.json()["errors"][0]["code"] == "repeated"
    assert len(response.content) < 1000


# ---- the event loop ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/vary"])
def test_a_large_body_is_parsed_off_the_event_loop(api: Api, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on, check = threading.Event(), threading.Event(), bodies._checked_json

    def slow(schema: Any, data: bytes) -> Any:
        began.set()
        assert go_on.wait(PATIENCE)
        return check(schema, data)

    monkeypatch.setattr(bodies, "_checked_json", slow)
    large = json.dumps({"order": [1] * 30_000}).encode()
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(httpx.post(api.url + path, content=large, headers=JSON)))
    asking.start()
    assert began.wait(PATIENCE)
    assert api.client.get("/healthz").status_code == 200
    go_on.set()
    asking.join(PATIENCE)
    assert answers[0].status_code == 422


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=B"])
def test_a_client_that_hangs_up_in_its_body_is_no_failure_of_the_server(api: Api, kind: str) -> None:
    def counted(status: str) -> float | None:
        labels = {"method": "POST", "route": "/v1/vary", "status": status}
        return api.metrics.registry.get_sample_value("arpg_http_requests_total", labels)

    before = counted("400") or 0
    head = f"POST /v1/vary HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    with connected(api) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n--B".encode())
    assert eventually(lambda: counted("400") == before + 1)
    assert counted("500") is None
