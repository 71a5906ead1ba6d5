"""One call of a webhook: to an address that was checked, without redirects, and never for long."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from service.jobs.webhooks import caller as calling
from service.jobs.webhooks.caller import CallFailed, Resolve, WebhookCaller, resolve
from service.jobs.webhooks.hosts import WebhookHosts

pytestmark = pytest.mark.anyio

HOSTS = WebhookHosts(["hooks.test", "inner.test", "10.0.0.0/8"])


def asked(answers: dict[str, list[str]]) -> Resolve:
    async def resolve(host: str, port: int) -> list[str]:
        if host not in answers:
            raise OSError("no such name")
        return answers[host]

    return resolve


async def said(caller: WebhookCaller, url: str) -> CallFailed | None:
    try:
        await caller.call(url, {"webhook-id": "m"}, b"{}")
    except CallFailed as error:
        return error
    finally:
        await caller.aclose()
    return None


@pytest.mark.parametrize(
    ("addresses", "called"),
    [
        (["93.184.216.34"], "93.184.216.34"),
        (["192.168.0.1", "93.184.216.34"], "93.184.216.34"),
        (["10.1.2.3"], "10.1.2.3"),
        (["169.254.169.254"], None),
        (["::ffff:127.0.0.2", "::1"], None),
    ],
)
async def test_a_call_goes_to_the_address_that_was_checked(addresses: list[str], called: str | None) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(204)

    caller = WebhookCaller(HOSTS, asked({"hooks.test": addresses}), httpx.MockTransport(answer))
    error = await said(caller, "https://hooks.test/a?b=c")
    if called is None:
        assert error is not None
        assert "no public address" in str(error)
        assert requests == []
        return
    assert error is None
    [request] = requests
    assert (request.url.host, request.url.raw_path) == (called, b"/a?b=c")
    assert (request.headers["host"], request.extensions["sni_hostname"]) == ("hooks.test", "hooks.test")


@pytest.mark.parametrize(
    ("url", "raised", "told", "final"),
    [
        ("https://hooks.test/", httpx.ReadTimeout("slow"), "the call failed: ReadTimeout", False),
        ("https://nowhere.hooks.test/", None, "ARPG_WEBHOOK_HOSTS", True),  # the list was changed since
        ("https://inner.test/", None, "no address", False),
        (
            "https://hooks.test/",
            httpx.Response(302, headers={"Location": "https://hooks.test/b"}),
            "answered 302",
            False,
        ),
        ("https://hooks.test/", httpx.Response(410), "answered 410", True),
    ],
)
async def test_a_call_that_fails_says_why(url: str, raised: Any, told: str, final: bool) -> None:
    calls = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        if isinstance(raised, Exception):
            raise raised
        assert isinstance(raised, httpx.Response)
        return raised

    error = await said(WebhookCaller(HOSTS, asked({"hooks.test": ["93.184.216.34"]}), httpx.MockTransport(answer)), url)
    assert error is not None
    assert (told in str(error), error.final, len(calls) <= 1) == (True, final, True)


async def test_the_next_address_is_tried_if_one_does_not_answer() -> None:
    hosts: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        if len(hosts) < 3:
            raise httpx.ConnectError("refused")
        return httpx.Response(200)

    names = asked({"hooks.test": ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3"]})
    assert await said(WebhookCaller(HOSTS, names, httpx.MockTransport(answer)), "https://hooks.test/") is None
    assert hosts == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


@pytest.mark.parametrize(
    ("scheme", "sent", "said_of_it"),
    [("http", b"POST ", "no answer within 0.5 s"), ("https", b"\x16\x03\x01", "no connection within")],
)
async def test_a_receiver_that_does_not_answer_is_left(
    scheme: str, sent: bytes, said_of_it: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is closed, in the TLS handshake too."""
    monkeypatch.setattr(calling, "CALL_SECONDS", 0.5)
    closed = asyncio.get_running_loop().create_future()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closed.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    caller = WebhookCaller(WebhookHosts([f"{scheme}://127.0.0.1:{port}"]), resolve)
    assert said_of_it in str(await said(caller, f"{scheme}://127.0.0.1:{port}/"))
    async with asyncio.timeout(20):
        heard = await closed
    assert heard.startswith(sent)
    server.close()
