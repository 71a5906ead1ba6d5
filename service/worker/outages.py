"""Redis may be away for a while: an outage is no reason to fail a job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError

log = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_SECONDS = 0.5


async def insist(what: str, call: Callable[[], Awaitable[T]]) -> T:
    """For calls that may be repeated."""
    while True:
        try:
            return await call()
        except (RedisError, OSError) as error:
            log.warning("%s: %s; trying again", what, error)
            await asyncio.sleep(RETRY_SECONDS)
