"""Checks before a server accepts requests: that Redis is safe, and that there is a key where one is needed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from redis.exceptions import RedisError

from service import logs
from service.auth import key_store, keys
from service.auth.key_store import KeyStore
from service.jobs import check_server, connect
from service.jobs.connection import without_password
from service.logs import Outage
from service.server.listen import is_loopback
from service.settings import Settings

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Between two checks of a Redis that does not respond yet."""


def startup_keys(settings: Settings, listener: socket.socket) -> KeyStore:
    """The API's keys. Keys are needed if the file of keys exists, or if other machines can reach the listener.

    If other machines can reach it and there is no key, makes one and prints it.
    """
    public = not is_loopback(listener.getsockname()[0])
    store = KeyStore(settings.keys_path, needed=public)
    if not (store.needed and store.empty()):
        return store
    if not public:
        logs.status(
            f"every key in {settings.keys_path} is revoked, so all requests are refused; "
            "make a new key with: arpg keys add NAME"
        )
        return store
    text, key = keys.make(keys.FIRST, scopes=("draw", "metrics"), priority="high")
    try:
        made = key_store.add(settings.keys_path, key, only_first=True)
        store = KeyStore(settings.keys_path, needed=public)
        if not made:  # another process has made one meanwhile
            return store
        stored = f"its hash is stored in {settings.keys_path}"
    except OSError as error:
        store.add_in_memory(key)
        stored = f"it is valid until this process ends, because {settings.keys_path} can't be written: {error.strerror}"
    logs.secret(
        f"other machines can reach this server, so it needs a key. A new key, shown only now: {text}  ({stored})"
    )
    return store


async def check_redis(url: str, settings: Settings, outage: Outage | None = None) -> bool:
    """False: Redis does not respond, which is logged: the first time with what to do. outage: of the times before.
    Raises ServerUnsuitable if it may lose accepted jobs, or is too small."""
    redis = connect(url, timeout=2.0, retries=0, max_connections=1)
    try:
        report = await check_server(redis, settings.blob_bytes)
    except (RedisError, OSError) as error:
        if outage is None:
            cure = "start it, or correct its address, name and password in ARPG_REDIS_URL"
            log.warning("redis at %s does not respond: %s; %s", without_password(url), error, cure)
        else:
            outage.failed("redis still does not respond: %s", error)
        return False
    finally:
        await redis.aclose()
    if outage is not None:
        outage.over("redis responds")
    if not settings.allow_unsafe_redis:
        report.require_safe()
    for warning in report.warnings:
        log.warning("redis: %s", warning)
    return True


async def wait_for_redis(url: str, settings: Settings, stop: asyncio.Event) -> None:
    """Checks Redis as soon as it responds, which may be long after the start; then waits for `stop`."""
    outage = Outage(log, told=True)
    while not stop.is_set() and not await check_redis(url, settings, outage):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), RETRY_SECONDS)
    await stop.wait()
