"""How many requests a minute a client may send: a token bucket for each client, in Redis, shared by all replicas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files

from redis.asyncio import Redis

WINDOW_SECONDS = 60
POLICY = "requests"


@dataclass(frozen=True, slots=True)
class RateLimitResult:
    """allowed: whether a token was left. size: tokens of a full bucket. left: tokens in it now. next_seconds: until
    there is one; full_seconds: until the bucket is full."""

    allowed: bool
    size: int
    left: int
    next_seconds: int
    full_seconds: int

    def headers(self) -> dict[str, str]:
        """As in draft-ietf-httpapi-ratelimit-headers-10; a refusal also says when to retry."""
        headers = {
            "RateLimit-Policy": f'"{POLICY}";q={self.size};w={WINDOW_SECONDS}',
            "RateLimit": f'"{POLICY}";r={self.left};t={self.full_seconds}',
        }
        return headers if self.allowed else headers | {"Retry-After": str(max(1, self.next_seconds))}


class RateLimiter:
    def __init__(self, redis: Redis, prefix: str) -> None:
        self._prefix = prefix
        self._script = redis.register_script(files("service.auth").joinpath("rate_limit.lua").read_text())

    async def take(self, bucket: str, size: int) -> RateLimitResult:
        """Takes a token of a bucket that holds `size` and fills within a minute."""
        allowed, left, next_ms, full_ms = await self._script(
            [f"{self._prefix}rate:{bucket}"], [size, WINDOW_SECONDS * 1000]
        )
        return RateLimitResult(bool(allowed), size, int(left), math.ceil(next_ms / 1000), math.ceil(full_ms / 1000))
