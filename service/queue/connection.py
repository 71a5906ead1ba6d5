"""Redis clients made right, and what a server must be.

redis-py's defaults do not fit: `from_url` retries nothing, a socket timeout of 5 s cuts blocking reads, and a
pool of 100 raises when it is empty instead of waiting.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry  # the asyncio one: redis.retry.Retry would silently never retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, ResponseError, TimeoutError

RETRIED = (BusyLoadingError, ConnectionError, TimeoutError)


class ServerUnsuitable(Exception):
    """The server cannot carry the queue."""


@dataclass(frozen=True, slots=True)
class ServerReport:
    product: str  # "valkey" or "redis"
    version: str
    warnings: tuple[str, ...]  # what an operator should know: durability and eviction


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
    """Refuses what is too old (Redis below 7 lacks `XADD <ms>-*`); reports what may lose jobs."""
    info: dict[str, Any] = await redis.info("server")
    product = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get("valkey_version") or info["redis_version"])
    if product == "redis" and int(version.split(".")[0]) < 7:
        raise ServerUnsuitable(f"Redis {version} is too old: Redis 7 or newer, or any Valkey, is needed")
    warnings = []
    try:
        settings = {
            **await redis.config_get("appendonly"),
            **await redis.config_get("maxmemory-policy"),
        }
    except ResponseError as error:
        warnings.append(f"the server hides its settings ({error}): it should run with AOF and noeviction")
    else:
        if settings.get("appendonly") != "yes":
            warnings.append("appendonly is off: a crash of the server loses accepted jobs")
        policy = settings.get("maxmemory-policy")
        if policy != "noeviction":
            warnings.append(f"maxmemory-policy is {policy}: the server may evict accepted jobs")
    return ServerReport(product, version, tuple(warnings))
