"""The queue's server: one that the settings name, or the embedded one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from service.cli.doctor import neighbour
from service.cli.doctor.finding import Finding
from service.jobs import ServerUnsuitable, check_server, connect
from service.jobs.connection import ServerReport
from service.server.embedded import ServerNotFound, find_binary
from service.settings import Settings


def redis(settings: Settings) -> Iterator[Finding]:
    url = settings.redis_address
    if url is not None:
        yield _named(url, settings)
        return
    held, port = neighbour.in_folder(settings.data_dir / "valkey")
    if held:
        folder = settings.data_dir.absolute()
        if port == settings.port and neighbour.at_port(settings) is not None:
            yield Finding("redis", "ok", f"the arpg server at port {port} runs its own in the data folder {folder}")
        else:
            where = "" if port is None else f" at port {port}"
            cure = "stop that one, or choose another data folder: --data-dir or ARPG_DATA_DIR"
            yield Finding("redis", "fault", f"an `arpg serve`{where} uses the data folder {folder}", cure)
        return
    try:
        yield Finding("redis", "ok", f"none is set (ARPG_REDIS_URL): `arpg serve` starts {find_binary()}")
    except ServerNotFound as error:
        says, _, cure = str(error).partition(": ")
        yield Finding("redis", "fault", says, cure)


def _named(url: str, settings: Settings) -> Finding:
    """The message leaves out the URL, which may contain a password."""
    try:
        report = asyncio.run(_report(url, settings))
        if report.warnings and not settings.allow_unsafe_redis:
            cure = "change its configuration so, or set ARPG_ALLOW_UNSAFE_REDIS=1 if jobs may be lost"
            return Finding("redis", "fault", "; ".join(report.warnings), cure)
    except ServerUnsuitable as error:
        return Finding(
            "redis", "fault", str(error), "use a newer server, or the embedded one: leave out ARPG_REDIS_URL"
        )
    except (RedisError, OSError) as error:
        if isinstance(error.__cause__ or error, AuthenticationError | ResponseError):  # the pool wraps it
            cure = "put the right name and password into ARPG_REDIS_URL: redis://name:password@host:port"
            return Finding("redis", "fault", f"it refuses the name or password: {error}", cure)
        cure = "start the server at ARPG_REDIS_URL or correct the address; without it `arpg serve` starts its own"
        return Finding("redis", "fault", f"it does not answer: {error}", cure)
    state = f"{report.product} {report.version}"
    if report.warnings:
        return Finding("redis", "warning", f"{state}: {'; '.join(report.warnings)}", "jobs may be lost, as is allowed")
    return Finding("redis", "ok", state)


async def _report(url: str, settings: Settings) -> ServerReport:
    client = connect(url, timeout=3.0, retries=0, max_connections=1)
    try:
        return await check_server(client, settings.blob_bytes)
    finally:
        await client.aclose()
