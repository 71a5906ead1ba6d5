"""Calls that are repeated while Redis is away: an outage fails no job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from service.logs import Outage

log = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_SECONDS = 0.5
TRANSIENT = (ClusterDownError, MasterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
TRANSIENT_CODES = ("BUSY", "MISCONF", "NOREPLICAS")  # redis-py has no classes for them


async def retry_transient(what: str, call: Callable[[], Awaitable[T]]) -> T:
    """Repeats an idempotent call until it succeeds. Raises permanent errors, so that the lease of a job that can't be
    reported expires."""
    outage = Outage(log)
    while True:
        try:
            result = await call()
            outage.over(f"{what}: done")
            return result
        except (RedisError, OSError) as error:
            if not is_transient(error):
                raise
            outage.failed("%s: %s; trying again", what, error)
            await asyncio.sleep(RETRY_SECONDS)


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed later."""
    return (
        not isinstance(error, ResponseError) or isinstance(error, TRANSIENT) or str(error).startswith(TRANSIENT_CODES)
    )
