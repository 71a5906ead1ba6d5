"""When a request is repeated, and after how long. Each request that makes a job has an idempotency key, so that it
makes one job however often it is sent."""

from __future__ import annotations

import random

from service.client.errors import APIConnectionError, APIError, TooManyRequestsError, UnavailableError

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
LONGEST_RETRY_AFTER = 60.0
"""In seconds. A server that asks for a longer wait gets no further request: the caller decides."""


class Retries:
    def __init__(self, most: int) -> None:
        """most: how often in a row a request is repeated."""
        self._most = most
        self._done = 0

    def succeeded(self) -> None:
        self._done = 0

    def pause(self, error: APIError) -> float:
        """The seconds to wait before the next attempt. Raises the error if there is none."""
        asked = error.retry_after if isinstance(error, TooManyRequestsError | UnavailableError) else None
        repeatable = isinstance(error, APIConnectionError | TooManyRequestsError | UnavailableError)
        if not repeatable or self._done >= self._most or (asked or 0) > LONGEST_RETRY_AFTER:
            raise error
        own = min(LONGEST_PAUSE, FIRST_PAUSE * 2**self._done) * random.uniform(0.75, 1.0)
        self._done += 1
        return own if asked is None else asked
