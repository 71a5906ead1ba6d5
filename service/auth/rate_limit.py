"""How often a client may ask: a token bucket each, in Redis, so that all replicas count together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files

from redis.asyncio import Redis

WINDOW_SECONDS = 60
POLICY = "requests"


@dataclass(frozen=True, slots=True)
class Taken:
    """allowed: whether there was a token. left: how many more there are now. next_seconds and full_seconds: until there
    is one, and until they are all back."""

    allowed: bool
    size: int
    left: int
    next_seconds: int
    full_seconds: int

    def headers(self) -> dict[str, str]:
        """As in draft-ietf-httpapi-ratelimit-headers-10; a refusal says when to come back."""
        told = {
            "RateLimit-Policy": f'"{POLICY}";q={self.size};w={WINDOW_SECONDS}',
            "RateLimit": f'"{POLICY}";r={self.left};t={self.full_seconds}',
        }
        return told if self.allowed else told | {"Retry-After": str(max(1, self.next_seconds))}


class Limiter:
    def __init__(self, redis: Redis, prefix: str) -> None:
        self._prefix = prefix
        self._script = redis.register_script(files("service.auth").joinpath("rate_limit.lua").read_text())

    async def take(self, who: str, size: int) -> Taken:
        """One token of a bucket that holds `size`, and fills in a minute."""
        allowed, left, next_ms, full_ms = await self._script(
            [f"{self._prefix}rate:{who}"], [size, WINDOW_SECONDS * 1000]
        )
        return Taken(bool(allowed), size, int(left), math.ceil(next_ms / 1000), math.ceil(full_ms / 1000))
