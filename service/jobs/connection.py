"""Redis clients with suitable settings, and the check that a server is safe for the queue.

redis-py's defaults do not fit: a pool made from a URL retries nothing, its socket timeout of 5 s ends blocking reads,
and its pool of 100 connections raises an error when it is empty instead of waiting.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry  # the asyncio class; redis.retry.Retry would never retry, without an error
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, ResponseError, TimeoutError

MEMORY_SHARE = 1.5
"""A server's memory over the blobs' budget: jobs, events and Redis's own structures take the rest."""

RETRIED = (BusyLoadingError, ConnectionError, TimeoutError)


class ServerUnsuitable(Exception):
    """The server lacks something that the queue needs, or may lose accepted jobs."""


@dataclass(frozen=True, slots=True)
class ServerReport:
    product: str  # "valkey" or "redis"
    version: str
    warnings: tuple[str, ...]  # reasons why it may lose accepted jobs, or keep them from ending

    def require_safe(self) -> None:
        """Raises ServerUnsuitable if there are warnings."""
        if self.warnings:
            why = "; ".join(self.warnings)
            raise ServerUnsuitable(f"the {self.product} server is unsafe: {why} (ARPG_ALLOW_UNSAFE_REDIS=1 accepts it)")


class _NoticesLoss(AbstractConnection):
    """A connection that the server closed while it was idle is opened again before a command is sent.

    redis-py 8.1.0 looks for an EOF only without maintenance notifications, and never for a reset. The command then
    fails: with ConnectionError, or on CPython 3.12 to 3.14.0 with TypeError or AttributeError, which no retry catches
    (redis-py#4287).
    """

    async def can_read(self) -> bool:
        """The pool calls it before it hands out the connection, and opens the connection again after this error."""
        await self._check_open()
        return await super().can_read()

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        await self._check_open()
        await super().send_packed_command(command, check_health)

    async def _check_open(self) -> None:
        """Raises ConnectionError if the server has closed the connection."""
        writer, reader = self._writer, self._reader
        if writer is not None and (writer.is_closing() or (reader is not None and reader.at_eof())):
            await self.disconnect(nowait=True)
            raise ConnectionError("the server closed the connection while it was idle")


class _TCP(_NoticesLoss, Connection):
    pass


class _TLS(_NoticesLoss, SSLConnection):
    pass


class _Unix(_NoticesLoss, UnixDomainSocketConnection):
    pass


_KINDS = {Connection: _TCP, SSLConnection: _TLS, UnixDomainSocketConnection: _Unix}


def is_address(url: str) -> bool:
    """Whether `connect` accepts the URL."""
    try:
        parse_url(url)
    except ValueError:
        return False
    return True


def without_password(url: str) -> str:
    """The address as a message may show it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def connect(
    url: str,
    *,
    blocking: bool = False,
    timeout: float = 5.0,
    retries: int = 6,
    max_connections: int = 64,
) -> Redis:
    """A client for `redis://`, `rediss://` or `unix://`.

    The client retries calls. The server may have executed the first try already if only its reply was lost, so send
    only idempotent commands. blocking: without socket timeout, for XREAD BLOCK; use such a client for nothing else.
    """
    retry: Retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=1.0), retries, supported_errors=RETRIED)
    options: dict[str, Any] = {
        "max_connections": max_connections,
        "timeout": timeout,
        "socket_timeout": None if blocking else timeout,
        "socket_connect_timeout": timeout,
        "retry": retry,
        "retry_on_error": list(RETRIED),
    }
    options |= parse_url(url)
    options["connection_class"] = _KINDS[options.get("connection_class", Connection)]
    pool: BlockingConnectionPool = BlockingConnectionPool(**options)
    return Redis.from_pool(pool)


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks that use Redis, again and again until they have ended.

    Once is not enough: redis-py sends under `asyncio.wait_for`, which on Python 3.11 swallows a cancellation that
    arrives while it sends; a task with a loop would run on for ever.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)


async def check_server(redis: Redis, blob_bytes: int = 0) -> ServerReport:
    """Reports why a server may lose jobs, or has too little memory for so many bytes of blobs. Raises ServerUnsuitable
    if it is too old: Redis 6 lacks `XADD <ms>-*`.

    Uses only INFO, as hosted servers often forbid CONFIG.
    """
    try:
        info: dict[str, Any] = await redis.info()
    except ResponseError as error:
        return ServerReport("unknown", "unknown", (f"it does not say how it stores its data (INFO: {error})",))
    product = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get("valkey_version") or info["redis_version"])
    if product == "redis" and int(version.split(".")[0]) < 7:
        raise ServerUnsuitable(f"Redis {version} is too old: Redis 7 or newer, or any Valkey, is needed")
    warnings = []
    if not info.get("aof_enabled"):
        warnings.append(f"appendonly is off: a crash of the server loses accepted jobs; {_setting('appendonly yes')}")
    policy = info.get("maxmemory_policy")
    if policy != "noeviction":
        cure = _setting("maxmemory-policy noeviction")
        warnings.append(f"maxmemory-policy is {policy}: the server may evict accepted jobs; {cure}")
    memory, needed = int(info.get("maxmemory") or 0), round(MEMORY_SHARE * blob_bytes)
    if 0 < memory < needed:
        warnings.append(
            f"maxmemory is {_mebibytes(memory)}, and pictures may take {_mebibytes(blob_bytes)}: a full server stops "
            f"every job; raise maxmemory to {_mebibytes(needed)}, or lower ARPG_BLOB_BYTES to "
            f"{int(memory / MEMORY_SHARE)}"
        )
    return ServerReport(product, version, tuple(warnings))


def _setting(line: str) -> str:
    return f"`redis-cli CONFIG SET {line}` changes it now, the line `{line}` in its configuration for good"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
