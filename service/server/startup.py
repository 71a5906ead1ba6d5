"""What has to be right before a server takes anything: a Redis that keeps it, and keys where strangers could ask."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys

from redis.exceptions import RedisError

from service.auth import key_store, keys
from service.auth.key_store import KeyStore
from service.jobs import check_server, connect
from service.server.listen import is_loopback
from service.settings import Settings

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
"""Seconds between two looks at a Redis that does not answer yet."""


def print_status(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def startup_keys(settings: Settings, listener: socket.socket) -> KeyStore:
    """The keys that open the API: needed where there is a file of them, and wherever more than this machine can reach
    it. Where there is none then, one is made, and told this once."""
    far = not is_loopback(listener.getsockname()[0])
    ring = KeyStore(settings.keys_path, needed=far)
    if not (ring.needed and ring.empty()):
        return ring
    if not far:
        print_status(f"all keys in {settings.keys_path} are revoked: nobody gets in until there is one (arpg keys add)")
        return ring
    text, key = keys.make(keys.FIRST, scopes=("draw", "metrics"), priority="high")
    try:
        made = key_store.add(settings.keys_path, key, only_first=True)
        ring = KeyStore(settings.keys_path, needed=far)
        if not made:  # another process was quicker
            return ring
        kept = f"kept in {settings.keys_path} as its hash"
    except OSError as error:
        ring.add_in_memory(key)
        kept = f"good until this process ends, as {settings.keys_path} can't be written ({error.strerror})"
    print_status(
        f"this server listens beyond loopback, so it needs a key. One was made, and is told only now: {text}  ({kept})"
    )
    return ring


async def check_redis(url: str, settings: Settings) -> bool:
    """False: it does not answer yet. Raises ServerUnsuitable where it may lose what is accepted."""
    redis = connect(url, timeout=2.0, retries=0, max_connections=1)
    try:
        report = await check_server(redis)
    except (RedisError, OSError) as error:
        log.warning("redis does not answer yet: %s", error)
        return False
    finally:
        await redis.aclose()
    if not settings.allow_unsafe_redis:
        report.require_safe()
    for warning in report.warnings:
        log.warning("redis: %s", warning)
    return True


async def wait_for_redis(url: str, settings: Settings, stop: asyncio.Event) -> None:
    """As soon as it answers, which may be long after the start; then it waits for the stop."""
    while not stop.is_set() and not await check_redis(url, settings):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOOK_AGAIN)
    await stop.wait()
