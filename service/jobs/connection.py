"""Redis clients made right, and what a server must be.

redis-py's defaults do not fit: `from_url` retries nothing, a socket timeout of 5 s cuts blocking reads, and a
pool of 100 raises when it is empty instead of waiting.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry  # the asyncio one: redis.retry.Retry would silently never retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, ResponseError, TimeoutError

RETRIED = (BusyLoadingError, ConnectionError, TimeoutError)


class ServerUnsuitable(Exception):
    """The server cannot carry the queue, or may lose what is in it."""


@dataclass(frozen=True, slots=True)
class ServerReport:
    product: str  # "valkey" or "redis"
    version: str
    warnings: tuple[str, ...]  # how it may lose what was accepted

    def require_safe(self) -> None:
        """Raises ServerUnsuitable where it may lose accepted jobs."""
        if self.warnings:
            why = "; ".join(self.warnings)
            raise ServerUnsuitable(
                f"the {self.product} server: {why} (ARPG_ALLOW_UNSAFE_REDIS=1 takes it all the same)"
            )


def is_address(url: str) -> bool:
    """Whether `connect` can do something with it."""
    try:
        parse_url(url)
    except ValueError:
        return False
    return True


def connect(
    url: str,
    *,
    blocking: bool = False,
    timeout: float = 5.0,
    retries: int = 6,
    max_connections: int = 64,
) -> Redis:
    """A client for `redis://`, `rediss://` or `unix://`.

    A retried call may have been carried out already (only its reply was lost): send nothing through it that
    is not idempotent. With `blocking` there is no socket timeout, for XREAD BLOCK; keep such a client apart.
    """
    retry: Retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=1.0), retries, supported_errors=RETRIED)
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout,
        socket_timeout=None if blocking else timeout,
        socket_connect_timeout=timeout,
        retry=retry,
        retry_on_error=list(RETRIED),
    )
    return Redis.from_pool(pool)


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks that talk to Redis, and waits until they have ended.

    Once is not enough: redis-py sends under `asyncio.wait_for`, which on Python 3.11 swallows a cancellation that
    comes as the bytes go out; a task that loops would go on for ever.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)


async def check_server(redis: Redis) -> ServerReport:
    """Refuses what is too old (Redis below 7 lacks `XADD <ms>-*`); reports what may lose jobs.

    INFO tells all of it: a server that keeps CONFIG to itself can be checked too.
    """
    try:
        info: dict[str, Any] = await redis.info()
    except ResponseError as error:
        return ServerReport("unknown", "unknown", (f"it does not say how it keeps its data (INFO: {error})",))
    product = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get("valkey_version") or info["redis_version"])
    if product == "redis" and int(version.split(".")[0]) < 7:
        raise ServerUnsuitable(f"Redis {version} is too old: Redis 7 or newer, or any Valkey, is needed")
    warnings = []
    if not info.get("aof_enabled"):
        warnings.append("appendonly is off: a crash of the server loses accepted jobs")
    policy = info.get("maxmemory_policy")
    if policy != "noeviction":
        warnings.append(f"maxmemory-policy is {policy}: the server may evict accepted jobs")
    return ServerReport(product, version, tuple(warnings))
