"""Signatures of webhooks, as Standard Webhooks has them (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac


def shown_secret(secret: bytes) -> str:
    """As Standard Webhooks' libraries take it."""
    return "whsec_" + base64.b64encode(secret).decode()


def webhook_headers(secret: bytes, message: str, timestamp: int, body: bytes) -> dict[str, str]:
    """message: the same id in each try. timestamp: of this try, in unix seconds."""
    signed = b"%b.%d.%b" % (message.encode(), timestamp, body)
    signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }
