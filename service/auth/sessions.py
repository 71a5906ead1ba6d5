"""How a request names its key: a header, the cookie of a session, or the token of a signed link."""

from __future__ import annotations

from starlette.datastructures import Headers

COOKIE = "arpg_session"
SESSION = "session"
"""What a cookie is signed for."""


def link_to(job_id: str) -> str:
    """What the token in an address is signed for."""
    return f"job {job_id}"


def key_of(headers: Headers) -> str | None:
    """The key that a request brings along, whatever it is worth. What is empty is none."""
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and (text := text.strip()):
        return text
    return headers.get("x-api-key") or None
