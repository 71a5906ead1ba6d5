"""How long each stage of an attempt took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stages:
    """When an attempt reached them, by time.monotonic(); None: not yet. queued_seconds: from the job's acceptance to
    the claim. loaded: the pictures that the job starts from are read. encoded: its prompts are encoded; None also where
    there are none."""

    queued_seconds: float
    claimed: float = field(default_factory=time.monotonic)
    loaded: float | None = None
    encoded: float | None = None
    first_tokens: float | None = None
    last_tokens: float | None = None

    def since_acceptance(self, moment: float) -> float:
        return self.queued_seconds + moment - self.claimed

    def so_far(self) -> dict[str, float]:
        """Of the stages that an attempt without pictures has reached."""
        timings = {"queue_seconds": self.queued_seconds}
        if self.loaded is None:
            return timings
        timings["load_seconds"] = self.loaded - self.claimed
        if self.encoded is not None:
            timings["encode_seconds"] = self.encoded - self.loaded
        if self.first_tokens is not None and self.last_tokens is not None:
            timings["first_tokens_seconds"] = self.since_acceptance(self.first_tokens)
            timings["draw_seconds"] = self.last_tokens - (self.encoded or self.loaded)
        return timings

    def of_success(self, made: float, now: float) -> dict[str, float]:
        """All but the second add up to the time from acceptance to now. made: when the last picture's file was made."""
        loaded, last_tokens = self.loaded or now, self.last_tokens or now
        encode = {} if self.encoded is None else {"encode_seconds": self.encoded - loaded}
        made = max(last_tokens, made)
        return {
            "queue_seconds": self.queued_seconds,
            "first_tokens_seconds": self.since_acceptance(self.first_tokens or now),
            "load_seconds": loaded - self.claimed,
            **encode,
            "draw_seconds": last_tokens - (self.encoded or loaded),
            "decode_seconds": made - last_tokens,
            "store_seconds": now - made,
        }
