"""How a request carries its credentials: a key in a header, a session cookie, or the token of a signed address."""

from __future__ import annotations

from starlette.datastructures import Headers

COOKIE = "arpg_session"
SESSION = "session"
"""The purpose that cookies are signed for."""


def link_to(job_id: str) -> str:
    """The purpose that the tokens of a job's addresses are signed for."""
    return f"job {job_id}"


def key_of(headers: Headers) -> str | None:
    """The key in a request's headers, unchecked. An empty header counts as none."""
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and (text := text.strip()):
        return text
    return headers.get("x-api-key") or None
