"""API keys: what a key may do, the client that it identifies, and how a new key is made.

`key_store.py` keeps the keys in a file.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.jobs.messages import Priority

Scope = Literal["draw", "metrics"]
PRIORITIES: tuple[Priority, ...] = ("low", "normal", "high")

RESERVED = frozenset({"local", "canary"})
"""Client names without a key: `local` where no key is needed, `canary` for the server's own test pictures."""

FIRST = "first"
"""The name of the key that a server makes for itself."""

KEY_FORMAT = re.compile(r"arpg_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
"""Group 1 is the key's id."""


class KeysError(Exception):
    """The keys can't be read or changed. The message never contains a key."""


class Key(BaseModel):
    """What is stored of a key: one line of the file. It holds the key's SHA-256, never the key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]  # the client's name
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...] = ("draw",)
    weight: float = Field(1.0, ge=0.001, le=1000)
    quota: int | None = Field(None, ge=1)
    rate: int | None = Field(None, ge=0)
    priority: Priority = "normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The sender of a request.

    key_id: empty where no key is needed. weight: share of the workers against other clients. quota: jobs that may be
    queued or running; None: no limit. rate: requests a minute; None: the server's setting. priority: the highest that
    its jobs may have.
    """

    name: str
    key_id: str = ""
    scopes: frozenset[str] = frozenset({"draw", "metrics"})
    weight: float = 1.0
    quota: int | None = None
    rate: int | None = None
    priority: Priority = "high"

    def may_ask(self, priority: Priority) -> bool:
        return PRIORITIES.index(priority) <= PRIORITIES.index(self.priority)


LOCAL = Client(name="local")
"""Every client, where no keys are needed."""


def make(name: str, **limits: Any) -> tuple[str, Key]:
    """A new key's text, and what is stored of it. The text can't be recovered later. Raises KeysError."""
    if name in RESERVED:
        raise KeysError(f"the server uses the name {name} for clients without a key: choose another name")
    key_id = secrets.token_hex(4)
    text = f"arpg_{key_id}_{secrets.token_urlsafe(32)}"
    try:
        return text, Key(name=name, id=key_id, sha256=digest(text), **limits)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"][0] == "name":
            says = "takes 1 to 64 letters of ASCII, digits, dots, hyphens and underscores; choose another name"
            raise KeysError(f"name: {says}") from None
        raise KeysError(f"{first['loc'][0]}: {first['msg']}") from None


def digest(text: str) -> str:
    """Keys are random, so a plain SHA-256 is as good as a slow hash."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def client_of(key: Key) -> Client:
    return Client(
        name=key.name,
        key_id=key.id,
        scopes=frozenset(key.scopes),
        weight=key.weight,
        quota=key.quota,
        rate=key.rate,
        priority=key.priority,
    )
