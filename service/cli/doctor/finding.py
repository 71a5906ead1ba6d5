"""What the doctor says of one subject."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "fault", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """subject: what was looked at. says: how it is, or what is wrong. cure: what to do; empty: nothing. A fault keeps
    `arpg serve` from running, a warning does not."""

    subject: str
    state: State
    says: str
    cure: str = ""
