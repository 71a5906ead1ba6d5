"""Redis may be away for a while: an outage is no reason to fail a job."""

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

log = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_SECONDS = 0.5
PASSING = (ClusterDownError, MasterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
PASSING_CODES = ("BUSY", "MISCONF", "NOREPLICAS")  # that redis-py has no class for


async def retry_transient(what: str, call: Callable[[], Awaitable[T]]) -> T:
    """For calls that may be repeated. Raises what the server will always answer: a job that can't be told of must lose
    its lease, not keep it for ever."""
    while True:
        try:
            return await call()
        except (RedisError, OSError) as error:
            if not passes(error):
                raise
            log.warning("%s: %s; trying again", what, error)
            await asyncio.sleep(RETRY_SECONDS)


def passes(error: Exception) -> bool:
    """Whether the same call may succeed later."""
    return not isinstance(error, ResponseError) or isinstance(error, PASSING) or str(error).startswith(PASSING_CODES)
