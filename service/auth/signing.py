"""Signed tokens, which browsers send in place of a key: a session cookie, or a token in the address of one job's
pictures and events. A token expires soon, and becomes invalid when its key is revoked.

The secret of each client's webhooks is derived from the same one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

_TOKEN = re.compile(r"([0-9a-f]{8})\.(\d{1,12})\.([A-Za-z0-9_-]{43})")


class Signer:
    """Signs and checks tokens. All replicas share one secret: from the settings, else a random one kept in Redis."""

    REREAD_SECONDS = 60.0

    def __init__(self, redis: Redis, prefix: str, secret: str | None = None) -> None:
        self._redis = redis
        self._name = f"{prefix}secret"
        self._fixed = None if secret is None else secret.encode()
        self._secret = b""
        self._read_at = float("-inf")

    async def sign(self, purpose: str, key_id: str, expires: int) -> str:
        """A token for one purpose. expires: unix seconds."""
        return f"{key_id}.{expires}.{await self._signature(purpose, key_id, expires)}"

    async def signed_by(self, purpose: str, token: str) -> str | None:
        """The id of the key that the token stands for. None: expired, forged, or for another purpose."""
        match = _TOKEN.fullmatch(token)
        if match is None or int(match[2]) <= time.time():
            return None
        expected = await self._signature(purpose, match[1], int(match[2]))
        return match[1] if hmac.compare_digest(expected, match[3]) else None

    async def webhook_secret(self, client: str) -> bytes:
        """The secret that signs the webhooks of one client."""
        return hmac.digest(await self._key(), f"webhooks\0{client}".encode(), hashlib.sha256)

    async def _signature(self, purpose: str, key_id: str, expires: int) -> str:
        text = f"{purpose}\0{key_id}\0{expires}".encode()
        return base64.urlsafe_b64encode(hmac.digest(await self._key(), text, hashlib.sha256)).decode().rstrip("=")

    async def _key(self) -> bytes:
        if self._fixed is not None:
            return self._fixed
        # Read again every minute: if Redis was emptied, another replica has made a new secret, and all must agree.
        if not self._secret or time.monotonic() - self._read_at > self.REREAD_SECONDS:
            try:
                found = await self._redis.get(self._name)
                if found is None:  # written only then: a Redis that takes no writes can still be read
                    await self._redis.set(self._name, secrets.token_hex(32), nx=True)
                    found = await self._redis.get(self._name)
                self._secret = cast(bytes, found or self._secret)
                self._read_at = time.monotonic()
            except RedisError:
                if not self._secret:
                    raise
        if not self._secret:
            raise RedisError("the signing secret has vanished from Redis")
        return self._secret
