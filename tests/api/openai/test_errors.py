"""Every refusal under /v1/images has OpenAI's shape, whoever refuses; the official client raises it with its fields."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi import Request
from openai import OpenAI

from service.api.problems import respond
from service.errors import Problem
from service.settings import Settings
from tests.api.openai.official import openai_client
from tests.support.api import Api, running_api
from tests.support.keys import new_key

MEMBERS = {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": "mushrom"}, "prompt", "the model has no such class; the nearest (is|are) mushroom"),
        ({"prompt": "A photo of a mushroom in a wood"}, "prompt", "the nearest (is|are) mushroom"),
        ({"prompt": "99"}, "prompt", "there is no class 99; labels run from 0 to 7"),
        ({"prompt": "x" * 300}, "prompt", "at most 200 characters"),
        ({"prompt": ""}, "prompt", "at least 1 character"),
        ({"size": "1024x1024"}, "size", "hand can't draw 1024x1024; the nearest is 64x64. It draws 32x32, and"),
        (
            {"size": "33x64"},
            "size",
            "multiples of 8, up to 4096 pixels: 48x48, 64x64, 64x32, 32x64, 128x32, 32x128 and",
        ),
        ({"size": "large"}, "size", "must be auto or WIDTHxHEIGHT in pixels, such as 256x256"),
        ({"n": 17}, "n", "less than or equal to 16"),
        ({"n": 2, "stream": True}, "n", "must be 1 with stream=true"),
        ({"partial_images": 2}, "partial_images", "send stream=true, or leave it out"),
        ({"partial_images": 4, "stream": True}, "partial_images", "less than or equal to 3"),
        ({"partial_images": 1, "stream": True, "extra_body": {"steps": 1}}, "partial_images", "drawn in one step"),
        ({"response_format": "url", "stream": True}, "response_format", "events carry the picture itself"),
        ({"background": "transparent"}, "background", "'auto' or 'opaque'"),
        ({"quality": "xhigh"}, "quality", "'auto', 'low', 'medium'"),
        ({"quality": "low", "extra_body": {"steps": 4}}, "quality", "leave one of them out"),
        ({"output_format": "gif"}, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"output_compression": 50}, "output_compression", "png files are lossless"),
        ({"extra_headers": {"X-Start-Timeout": "soon"}}, "X-Start-Timeout", "must be a number of seconds"),
        ({"style": "vivid"}, "style", "is not supported: the models have no styles; leave it out"),
        ({"frame_count": 3}, "frame_count", "animations are not drawn"),
        ({"extra_body": {"class": 3}}, "class", "send the class as prompt"),
        ({"extra_body": {"stepz": 3}}, "stepz", "no such field"),
        ({"extra_body": {"steps": 0}}, "steps", "greater than or equal to 1"),
        ({"extra_body": {"method": "ntk"}}, "method", "no such field"),
        ({"extra_body": {"order": [0, 0]}}, "order", "must name each of the 16 positions"),
    ],
)
def test_a_bad_field_is_named_and_makes_no_job(
    api: Api, client: OpenAI, fields: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as told:
        client.images.generate(**{"prompt": "cone"} | fields)
    assert isinstance(told.value.body, dict)
    assert told.value.body.keys() == MEMBERS
    assert (told.value.type, told.value.param) == ("invalid_request_error", param)
    assert told.value.code
    assert told.value.request_id
    assert api.queue(lambda queue, _, __: queue.depth("hand")) == 0


def test_a_model_that_is_not_there_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no such model; served now: hand") as told:
        client.images.generate(prompt="cone", model="gpt-image-2")
    assert (told.value.code, told.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "code"),
    [
        ("GET", "generations", b"", {}, 405, "method_not_allowed"),
        ("POST", "variations", b"", {}, 404, "not_found"),
        ("POST", "generations", b"{", {"content-type": "application/json"}, 400, "invalid_json"),
        ("POST", "generations", b"x", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        ("POST", "generations", b'{"prompt": 3}', {"content-type": "application/json"}, 400, "invalid"),
        ("POST", "generations?on_disconnect=maybe", b"{}", {"content-type": "application/json"}, 400, "invalid"),
        (
            "POST",
            "edits",
            b"x" * (2 * 2**20 + 1),
            {"content-type": "multipart/form-data; boundary=x"},
            413,
            "too_large",
        ),
        ("POST", "generations", b"", {"origin": "https://elsewhere.example"}, 403, "cross_site"),
    ],
)
def test_the_shape_goes_by_path(
    api: Api, method: str, path: str, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    response = api.client.request(method, f"/v1/images/{path}", content=content, headers=headers)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error"}
    assert response.json()["error"].keys() == MEMBERS
    assert response.json()["error"]["code"] == code
    assert response.headers["x-request-id"]


def test_a_request_with_two_lengths_is_told_so_in_this_shape_too(api: Api) -> None:
    said = sent(api, "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n")
    assert said.startswith(b"HTTP/1.1 400")
    assert b'{"error":{"message":"send Content-Length or' in said


def sent(api: Api, headers: str) -> bytes:
    """The answer to a request without its body, until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(f"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_a_path_that_a_proxy_strips_is_no_part_of_it() -> None:
    scope: dict[str, object] = {"type": "http", "root_path": "/art", "headers": [], "query_string": b"", "server": None}
    answers = {
        path: respond(Request(scope | {"path": path}), Problem(404, "not_found", "x")).media_type
        for path in ("/art/v1/images/edits", "/v1/images", "/art/v1/imagesque", "/art/v1/jobs/v1/images/")
    }
    kinds = ["application/json"] * 2 + ["application/problem+json"] * 2
    assert list(answers.values()) == kinds


@pytest.fixture(scope="module")
def limited(redis_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, str, str]]:
    """A server that needs keys, one key with two requests a minute, and one with one unfinished job."""
    path = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    rated, few = new_key(path, "rated", rate=2), new_key(path, "few", quota=1, rate=0)
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace="openai-limits", keys_file=path, body_timeout=0.2, _env_file=None
    )
    with running_api(settings, few) as api:
        api.show_card()
        yield api, rated, few
        api.empty()


def test_a_wrong_key_and_a_rate_are_the_clients_own_errors(limited: tuple[Api, str, str]) -> None:
    api, rated, few = limited
    with openai_client(api.url, few[:-1] + ("x" if few[-1] != "x" else "y")) as client:
        with pytest.raises(openai.AuthenticationError, match="does not exist, or it was revoked") as told:
            client.images.generate(prompt="cone")
        assert (told.value.code, told.value.type) == ("invalid_api_key", "invalid_request_error")
        assert told.value.response.headers["www-authenticate"] == "Bearer"
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    with openai_client(api.url, rated) as client:
        assert len(client.models.list().data) == 1
        assert client.models.retrieve("hand").id == "hand"
        with pytest.raises(openai.RateLimitError, match="more than 2 requests a minute") as limited_:
            client.images.generate(prompt="cone")
        assert (limited_.value.code, limited_.value.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert int(limited_.value.response.headers["retry-after"]) > 0
    with openai_client(api.url, few) as client:
        stream = client.images.generate(prompt="cone", stream=True)
        with pytest.raises(openai.RateLimitError, match="wait until some of them are done") as full:
            client.images.generate(prompt="cone")
        assert full.value.code == "quota_exceeded"
        stream.close()


def test_a_body_that_never_ends_and_a_server_that_leaves_are_told_in_this_shape(limited: tuple[Api, str, str]) -> None:
    api, _, few = limited
    body = "Content-Length: 100\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    said = sent(api, f"{body}Authorization: Bearer {few}\r\n")
    assert said.startswith(b"HTTP/1.1 408")
    assert b'{"error":{"message":"the body did not arrive' in said
    api.lifecycle.draining = True
    try:
        with openai_client(api.url, few) as client, pytest.raises(openai.InternalServerError) as told:
            client.images.generate(prompt="cone")
        assert (told.value.status_code, told.value.code, told.value.type) == (503, "draining", "server_error")
    finally:
        api.lifecycle.draining = False
