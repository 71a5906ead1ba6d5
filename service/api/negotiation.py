"""How a client wants its answer: the Accept and Prefer headers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import Problem
from service.tasks.pictures.images import MEDIA_TYPES, Format

EVENTS = "text/event-stream"
JSON = "application/json"
FORMATS: dict[str, Format] = {media_type: name for name, media_type in MEDIA_TYPES.items()}

_WAIT = re.compile(r"wait(?:\s*=\s*\"?(\d{1,6}(?:\.\d{1,3})?)\"?)?", re.IGNORECASE)


def negotiate(accept: str | None, offers: Sequence[str]) -> str | None:
    """The offer that the header likes best; among equals, the first. None: it accepts none of them.

    A type that is named beats a range that covers it, as in RFC 9110 §12.5.1.
    """
    ranges = _ranges(accept or "*/*") or [("*/*", 1.0)]
    best, best_quality = None, 0.0
    for offer in offers:
        matching = [(_precision(range_), q) for range_, q in ranges if _covers(range_, offer)]
        quality = max(matching)[1] if matching else 0.0
        if quality > best_quality:
            best, best_quality = offer, quality
    return best


def names(accept: str | None, media_type: str) -> bool:
    """Whether the header names this type itself: no range and no browser's habit asks for it by accident."""
    return any(range_ == media_type and q > 0 for range_, q in _ranges(accept or ""))


def prefer_wait(prefer: str | None, limit: float) -> float | None:
    """Seconds of `Prefer: wait=N` (RFC 7240), at most limit; bare `wait` is the limit. None: don't wait."""
    for preference in (prefer or "").split(","):
        if found := _WAIT.fullmatch(preference.split(";")[0].strip()):
            return min(float(found[1]), limit) if found[1] else limit
    return None


def _ranges(accept: str) -> list[tuple[str, float]]:
    ranges = []
    for part in accept.lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = min(1.0, max(0.0, float(parameter[2:])))
                except ValueError:
                    quality = 0.0
        if media_range:
            ranges.append(("*/*" if media_range == "*" else media_range, quality))
    return ranges


def _covers(media_range: str, offer: str) -> bool:
    kind, _, subtype = media_range.partition("/")
    return media_range == offer or (subtype == "*" and kind in ("*", offer.partition("/")[0]))


def _precision(media_range: str) -> int:
    return 2 - media_range.count("*")


@dataclass(frozen=True, slots=True)
class ResponsePreference:
    """How a client wants its answer."""

    kind: str  # JSON, EVENTS, or a picture's media type
    wait: float | None
    cancel_on_disconnect: bool

    @classmethod
    def of(
        cls,
        accept: str | None,
        prefer: str | None,
        *,
        n: int,
        format: Format,
        limit: float,
        cancel_on_disconnect: bool,
    ) -> ResponsePreference:
        """accept, prefer: the headers. n, format: of the pictures. limit: the longest wait in seconds. Raises Problem
        if the preference can't be met."""
        kind = negotiate(accept, (JSON, EVENTS, MEDIA_TYPES[format], *FORMATS))
        if kind is None:
            offers = ", ".join((JSON, EVENTS, *FORMATS))
            raise Problem(406, "not_acceptable", f"the answer can be one of {offers}")
        if kind in FORMATS and n > 1:
            raise Problem.field("n", "must be 1 where the answer is the picture itself", "one_picture")
        if kind == EVENTS and not names(accept, EVENTS):
            kind = JSON
        return cls(kind, prefer_wait(prefer, limit), cancel_on_disconnect)
