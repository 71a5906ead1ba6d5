"""Who asks, how often, and how much at once: settled before a byte of a body is read.

Everything needs a key but what is listed here, so that no new route is open by mistake. Pure ASGI, inside the envelope.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Awaitable

from redis.exceptions import RedisError
from starlette._utils import get_route_path  # the router's own idea of a path, so that there is one only
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import respond
from service.auth.keys import LOCAL, Client
from service.auth.sessions import COOKIE, SESSION, key_of, link_to
from service.errors import Problem, queue_unavailable, unauthorized
from service.services import Services

KEY_RATE = 600
"""Requests a minute that a key has where neither it nor the settings say."""

_OPEN = frozenset({"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/playground"})
_JOB_READ = re.compile(r"/v1/jobs/([^/]+)/(?:events|images/\d+)")
_SAFE = frozenset({"GET", "HEAD"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d*)?", re.IGNORECASE)


class Guard:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._now: Counter[str] = Counter()  # requests of each client with a key that are being answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        services: Services = scope["state"]["services"]
        told: dict[str, str] = {}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(told)
            await send(message)

        try:
            client, told = await _admitted(services, request)
        except Problem as problem:
            await respond(request, problem)(scope, receive, send)
            return
        except RedisError as error:
            await respond(request, queue_unavailable(error, services.settings.retry_after))(scope, receive, send)
            return
        scope["state"]["client"] = client
        if client is None or not client.key_id:
            await self.app(scope, receive, sending)
        elif self._now[client.name] >= (limit := services.settings.client_requests):
            full = Problem(429, "too_many_open", f"{limit} requests of this key are open, streams among them")
            full.headers["Retry-After"] = "1"
            await respond(request, full)(scope, receive, sending)
        else:
            await self._counted(client.name, self.app(scope, receive, sending))

    async def _counted(self, name: str, answering: Awaitable[None]) -> None:
        self._now[name] += 1
        try:
            await answering
        finally:
            self._now[name] -= 1
            if not self._now[name]:
                del self._now[name]


async def _admitted(services: Services, request: Request) -> tuple[Client | None, dict[str, str]]:
    """Who asks, and what to tell of its rate. None: a stranger, where strangers may. Raises Problem, RedisError."""
    path = get_route_path(request.scope)
    if not services.keys.needed:
        _check_neighbour(services, request)
    if (path in _OPEN or path.startswith("/playground/")) and "canary" not in request.query_params:  # which is work
        # Without a look at Redis: a probe must not wait for it.
        return (services.keys.find(key_of(request.headers) or "") if services.keys.needed else LOCAL), {}
    client = await _client(services, request, path)
    told = await _rate(services, request, client)
    needed = "metrics" if path in ("/metrics", "/readyz") else "draw"
    if needed not in client.scopes:
        raise Problem(403, "scope_needed", f"this key is not for that: it lacks the scope {needed}", headers=told)
    return client, told


def _check_neighbour(services: Services, request: Request) -> None:
    """Where no key is needed, nobody but this machine reaches us; its browser does too, for any page that it has open.
    Raises Problem where a page of somebody else asks."""
    settings, headers = services.settings, request.headers
    host = headers.get("host")  # only what is no browser sends none
    if host is not None and not _local_name(host, settings.host):
        # A name that its owner has let point to this machine: to a browser, what we say would be that page's own.
        detail = "without keys this server is for its own machine, and goes by localhost, an IP address or ARPG_HOST; "
        raise Problem(403, "foreign_host", f"{detail}to be asked by another name it needs keys: arpg keys add")
    work = "canary" in request.query_params
    if request.method in (*_SAFE, "OPTIONS") and not work:
        return
    origin = headers.get("origin")
    if origin is None:  # so a page asks for what it embeds
        foreign = work and headers.get("sec-fetch-site") in ("same-site", "cross-site")
    else:
        foreign = origin not in (f"http://{host}", f"https://{host}", *settings.cors_origins)
    if foreign:
        raise Problem(403, "cross_site", "a page of another site can't ask for this; open this server's own page")


def _local_name(host: str, own: str) -> bool:
    """host: as in the header, with its port."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].lower()
    if name in ("localhost", own.lower()):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


async def _client(services: Services, request: Request, path: str) -> Client:
    """Raises Problem where a key is needed, and there is none or a wrong one; RedisError."""
    keys, headers, token = services.keys, request.headers, request.query_params.get("token")
    if not keys.needed:
        return LOCAL
    if text := key_of(headers):
        if found := keys.find(text):
            return found
        raise unauthorized("key_invalid", "there is no such key, or it was revoked")
    if token and request.method in _SAFE and (job := _JOB_READ.fullmatch(path)):
        if found := await _signed_by(services, link_to(job[1]), token):
            return found
        raise unauthorized("link_invalid", "this address is no longer good: ask for another one")
    # A page of a sibling site sends the cookie too; it may not use it.
    if (cookie := request.cookies.get(COOKIE)) and headers.get("sec-fetch-site") not in ("same-site", "cross-site"):
        if found := await _signed_by(services, SESSION, cookie):
            return found
        raise unauthorized("session_ended", "the session has ended: POST /v1/session with a key")
    detail = "a key is needed: Authorization: Bearer <key>, or X-API-Key; a browser may POST /v1/session with it"
    raise unauthorized("key_needed", detail)


async def _signed_by(services: Services, purpose: str, token: str) -> Client | None:
    key_id = await services.signer.signed_by(purpose, token)
    return None if key_id is None else services.keys.by_id(key_id)


async def _rate(services: Services, request: Request, client: Client) -> dict[str, str]:
    """What to tell of the client's rate. Raises Problem where it is used up."""
    who, rate = f"key:{client.name}", client.rate
    if rate is None:
        rate = services.settings.rate
    if not client.key_id:
        # Without keys it is off unless it is asked for, and by address.
        who = f"address:{request.client.host if request.client else ''}"
    elif rate is None:
        rate = KEY_RATE
    if not rate:
        return {}
    taken = await services.limiter.take(who, rate)
    if not taken.allowed:
        detail = f"more than {rate} requests a minute; the next one in {max(1, taken.next_seconds)} s"
        raise Problem(429, "rate_limited", detail, headers=taken.headers())
    return taken.headers()
