"""Admits a request, before its body is read: it checks the browser's site, the key, the rate and the open requests.

A route needs a key unless it is listed here, so that no new route is open by mistake. Pure ASGI, inside
RequestContextMiddleware.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Awaitable, Container

from redis.exceptions import RedisError
from starlette._utils import get_route_path  # the router's own idea of a path, so that both always agree
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import respond
from service.auth.keys import LOCAL, Client
from service.auth.sessions import COOKIE, SESSION, key_of, link_to
from service.errors import Problem, queue_unavailable, unauthorized
from service.services import Services

KEY_RATE = 600
"""Requests a minute of a key, if neither the key nor the settings say."""

_OPEN = frozenset({"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/playground"})
_JOB_READ = re.compile(r"/v1/jobs/([^/]+)/(?:events|images/\d+)")
_READS = frozenset({"GET", "HEAD"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d*)?", re.IGNORECASE)


class AuthMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._open: Counter[str] = Counter()  # open requests by client, for clients with a key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        services: Services = scope["state"]["services"]
        headers: dict[str, str] = {}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        try:
            client, headers = await _admit(services, request)
        except Problem as problem:
            await respond(request, problem)(scope, receive, send)
            return
        except RedisError as error:
            await respond(request, queue_unavailable(error, services.settings.retry_after))(scope, receive, send)
            return
        scope["state"]["client"] = client
        if client is None or not client.key_id:
            await self.app(scope, receive, send_with_headers)
        elif self._open[client.name] >= (limit := services.settings.client_requests):
            detail = f"{limit} requests of this key are open already, event streams included; close some first"
            full = Problem(429, "too_many_open", detail, headers={"Retry-After": "1"})
            await respond(request, full)(scope, receive, send_with_headers)
        else:
            await self._counted(client.name, self.app(scope, receive, send_with_headers))

    async def _counted(self, name: str, response: Awaitable[None]) -> None:
        self._open[name] += 1
        try:
            await response
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]


async def _admit(services: Services, request: Request) -> tuple[Client | None, dict[str, str]]:
    """The client, and the headers that tell its rate. None: no valid key, on a route that needs none.

    Raises Problem, RedisError.
    """
    path, keys, settings = get_route_path(request.scope), services.keys, services.settings
    draws = "canary" in request.query_params  # a GET, yet it makes the workers draw
    if not keys.needed:
        _check_host(request, settings.host)
    if draws or request.method not in (*_READS, "OPTIONS"):
        _check_site(request, settings.cors_origins, keys_needed=keys.needed)
    if (path in _OPEN or path.startswith("/playground/")) and not draws:
        # Without Redis: a health probe must not wait for it.
        return (keys.find(key_of(request.headers) or "") if keys.needed else LOCAL), {}
    client = await _client(services, request, path)
    headers = await _rate_headers(services, request, client)
    needed = "metrics" if path in ("/metrics", "/readyz") else "draw"
    if needed not in client.scopes:
        raise Problem(403, "scope_needed", f"this key lacks the scope {needed}, which {path} needs", headers=headers)
    return client, headers


# ---- browsers -------------------------------------------------------------------------------------------------------
#
# A browser sends requests for every page that it has open, to servers on its own machine too. Without keys, being on
# this machine is all that a client needs; so pages of other sites must be refused.


def _check_host(request: Request, own: str) -> None:
    """Raises Problem if the request names this server by another name than its machine's.

    A site can let its own name point to 127.0.0.1 (DNS rebinding); the browser then takes this server for that site.
    """
    host = request.headers.get("host")  # only a client that is no browser sends none
    if host is not None and not _local_name(host, own):
        detail = "without keys this server answers only to localhost, an IP address or ARPG_HOST; for another name, "
        raise Problem(403, "foreign_host", f"{detail}make it need keys first: arpg keys add")


def _local_name(host: str, own: str) -> bool:
    """host: as in the header, with its port. own: what this server listens at."""
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


def _check_site(request: Request, allowed: Container[str], *, keys_needed: bool) -> None:
    """Raises Problem if a page of another site sent the request. allowed: origins of sites that may.

    A key in a header is not compared with the origin: no page has it by itself.
    """
    headers, origin = request.headers, request.headers.get("origin")
    if origin is not None and origin in allowed:
        return
    if keys_needed:
        foreign = _has_only_cookie(request) and _from_other_page(headers)
    else:
        foreign = not _is_own(origin, headers.get("host"))
    if foreign or _from_other_site(headers):
        raise Problem(403, "cross_site", "a page of another site can't do this; use this server's own page")


def _has_only_cookie(request: Request) -> bool:
    return COOKIE in request.cookies and not key_of(request.headers)


def _from_other_site(headers: Headers) -> bool:
    """As the browser says: `same-site` is a page on another port or subdomain."""
    return headers.get("sec-fetch-site") in ("same-site", "cross-site")


def _from_other_page(headers: Headers) -> bool:
    """Whether a cookie came from a page that is not this server's own.

    A browser says so with Sec-Fetch-Site, but only over TLS and to localhost. Elsewhere its Origin tells. A proxy may
    change Host, and should then send X-Forwarded-Host; no page can set that without permission.
    """
    if "sec-fetch-site" in headers:
        return _from_other_site(headers)
    forwarded = headers.get("x-forwarded-host", "").partition(",")[0].strip()
    return not _is_own(headers.get("origin"), headers.get("host"), forwarded)


def _is_own(origin: str | None, *hosts: str | None) -> bool:
    """origin: None where the client sent none; a browser sends it with every request that changes something."""
    if origin is None:
        return True
    scheme, _, name = origin.lower().partition("://")
    return scheme in ("http", "https") and name in {host.lower() for host in hosts if host}


# ---- keys -----------------------------------------------------------------------------------------------------------


async def _client(services: Services, request: Request, path: str) -> Client:
    """Raises Problem if a key is needed and the request has none that is valid; RedisError."""
    keys, headers, token = services.keys, request.headers, request.query_params.get("token")
    if not keys.needed:
        return LOCAL
    if text := key_of(headers):
        if found := keys.find(text):
            return found
        raise unauthorized("key_invalid", "this key does not exist, or it was revoked")
    if token and request.method in _READS and (job := _JOB_READ.fullmatch(path)):
        if found := await _signed_by(services, link_to(job[1]), token):
            return found
        raise unauthorized(
            "link_invalid", "this signed address has expired, or it is for another job: request a new one"
        )
    # The browser adds the cookie to requests of sibling sites too; such a page must not act for the user.
    if (cookie := request.cookies.get(COOKIE)) and not _from_other_page(headers):
        if found := await _signed_by(services, SESSION, cookie):
            return found
        raise unauthorized("session_ended", "the session has ended: POST /v1/session with a key opens a new one")
    detail = "a key is needed: Authorization: Bearer <key>, or X-API-Key; a browser may POST /v1/session with it"
    raise unauthorized("key_needed", detail)


async def _signed_by(services: Services, purpose: str, token: str) -> Client | None:
    key_id = await services.signer.signed_by(purpose, token)
    return None if key_id is None else services.keys.by_id(key_id)


async def _rate_headers(services: Services, request: Request, client: Client) -> dict[str, str]:
    """Takes a request from the client's rate. Raises Problem if none is left."""
    bucket, rate = f"key:{client.name}", client.rate
    if rate is None:
        rate = services.settings.rate
    if not client.key_id:
        # Without keys a rate counts by address, and only if the settings name one.
        bucket = f"address:{request.client.host if request.client else ''}"
    elif rate is None:
        rate = KEY_RATE
    if not rate:
        return {}
    result = await services.limiter.take(bucket, rate)
    if not result.allowed:
        seconds = max(1, result.next_seconds)
        detail = f"more than {rate} requests a minute; send the next one in {seconds} s"
        raise Problem(429, "rate_limited", detail, headers=result.headers())
    return result.headers()
