"""One call of a webhook: a POST to an allowed host, at an address that was checked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from service.jobs.webhooks.hosts import HostNotAllowed, WebhookHosts

CALL_SECONDS = 10.0

GONE = 410
"""A receiver that answers this wants no more tries."""

ADDRESSES = 3
"""Of a name, so many are tried in one call."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class CallFailed(Exception):
    """The message is for the job's client. final: another try is of no use."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class WebhookCaller:
    """Sends one request to an allowed host, at an address that was checked."""

    def __init__(self, hosts: WebhookHosts, resolve: Resolve, network: httpx.AsyncBaseTransport | None = None) -> None:
        """network: None: the real one."""
        self._hosts = hosts
        self._resolve = resolve
        # A connection is used once: to another host at the same address, its certificate would not be checked. No proxy
        # of the environment: it would resolve the name again.
        self._http = httpx.AsyncClient(
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
            follow_redirects=False,
            transport=network,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def call(self, url: str, headers: dict[str, str], body: bytes) -> None:
        """Raises CallFailed unless the receiver takes it."""
        deadline = asyncio.get_running_loop().time() + CALL_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                status = await self._status(url, headers, body, deadline)
        except HostNotAllowed as error:
            raise CallFailed(f"the URL {error}", final=True) from None
        except TimeoutError:
            raise CallFailed(f"there was no answer within {CALL_SECONDS:g} s") from None
        except httpx.ConnectTimeout:
            raise CallFailed("there was no connection within the time limit") from None
        except httpx.HTTPError as error:
            raise CallFailed(f"the call failed: {type(error).__name__}") from None
        if not 200 <= status < 300:
            raise CallFailed(f"the receiver answered {status}", final=status == GONE)

    async def _status(self, text: str, headers: dict[str, str], body: bytes, deadline: float) -> int:
        url = self._hosts.checked(text)
        port = url.port or {"https": 443, "http": 80}[url.scheme]
        try:
            found = await self._resolve(url.host, port)
        except OSError:
            raise CallFailed("its host has no address") from None
        allowed = [address for address in dict.fromkeys(found) if self._hosts.may_connect(address)][:ADDRESSES]
        if not allowed:
            raise CallFailed("its host has no public address, and the server's list of hosts names no other")
        for index, address in enumerate(allowed):
            try:
                return await self._sent(url, address, headers, body, deadline)
            except httpx.ConnectError:
                if index == len(allowed) - 1:
                    raise
        raise AssertionError("one address at least was tried")

    async def _sent(self, url: httpx.URL, address: str, headers: dict[str, str], body: bytes, deadline: float) -> int:
        """The answer's status; its body is not read."""
        # httpcore leaves the socket open if a TLS handshake is cancelled, and closes it if its own time limit ends the
        # handshake. That limit holds for the connection and for the handshake each.
        connecting = (deadline - asyncio.get_running_loop().time()) / 3
        request = self._http.build_request(
            "POST",
            url.copy_with(host=address),
            headers=headers | {"Host": url.netloc.decode("ascii")},
            content=body,
            timeout=httpx.Timeout(CALL_SECONDS, connect=connecting),
            extensions={"sni_hostname": url.host},
        )
        response = await self._http.send(request, stream=True)
        await response.aclose()
        return response.status_code


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name. Raises OSError."""
    found: list[Any] = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [entry[4][0] for entry in found]
