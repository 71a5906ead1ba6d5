"""The rate limit, in a real Redis."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from service.auth.rate_limit import RateLimiter


@pytest.mark.anyio
async def test_a_bucket_refills_over_time_is_shared_and_never_overflows(redis: Redis) -> None:
    one, two = RateLimiter(redis, "{t}:"), RateLimiter(redis, "{t}:")
    first = [await limiter.take("ann", 2) for limiter in (one, two, one)]
    assert [taken.allowed for taken in first] == [True, True, False]
    assert (first[2].left, first[2].next_seconds, first[2].full_seconds) == (0, 30, 60)

    async def turn_back(seconds: float) -> None:
        await redis.hincrby("{t}:rate:ann", "at", -round(seconds * 1000))

    await turn_back(15)
    assert not (await one.take("ann", 2)).allowed  # half a token is left, and a refusal takes nothing
    await turn_back(15)
    assert (await one.take("ann", 2)).allowed
    await turn_back(3600)
    assert (await one.take("ann", 2)).left == 1
    assert 0 < await redis.pttl("{t}:rate:ann") <= 60_000
    assert (await one.take("bob", 2)).left == 1
