"""API keys: who may ask, for what and how much.

The file has a key a line, as JSON, and of the key itself its hash alone: keys are random, so a plain SHA-256 is as
good as a slow one. A change counts within a second, in every process that reads the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.jobs.messages import Priority

log = logging.getLogger(__name__)

Scope = Literal["draw", "metrics"]
PRIORITIES: tuple[Priority, ...] = ("low", "normal", "high")

RESERVED = frozenset({"local", "canary"})
"""Clients that have no key: whoever asks where none is needed, and the server itself."""

FIRST = "first"
"""The name of the key that a server makes for itself."""

_TEXT = re.compile(r"arpg_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NOBODY = "0" * 64


class KeysError(Exception):
    """The keys can't be read, or not be changed so; the message never has a key in it."""


class Key(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]  # whose it is: the client's name
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...] = ("draw",)
    weight: float = Field(1.0, ge=0.001, le=1000)
    quota: int | None = Field(None, ge=1)
    rate: int | None = Field(None, ge=0)
    priority: Priority = "normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who asks. key_id: none where no key is needed. weight: its share against others. quota: jobs that it may have
    queued or running; None: no limit. rate: requests a minute; None: what the settings say. priority: the highest that
    it may ask for."""

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
"""Everybody, where no keys are needed."""


def make(name: str, **limits: Any) -> tuple[str, Key]:
    """A new key, which is told once, and what is kept of it. Raises KeysError."""
    if name in RESERVED:
        raise KeysError(f"{name} is the server's own name for those without a key: choose another")
    identity = secrets.token_hex(4)
    text = f"arpg_{identity}_{secrets.token_urlsafe(32)}"
    try:
        return text, Key(name=name, id=identity, sha256=_digest(text), **limits)
    except ValidationError as error:
        first = error.errors()[0]
        raise KeysError(f"{first['loc'][0]}: {first['msg']}") from None


def read(path: Path) -> tuple[Key, ...]:
    """Raises KeysError, FileNotFoundError."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"{path} can't be read ({type(error).__name__})") from None
    keys = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                keys.append(Key.model_validate_json(line))
            except ValidationError as error:
                place = ".".join(map(str, error.errors()[0]["loc"])) or "JSON"
                raise KeysError(f"{path}, line {number}: {place} is not as it should be") from None
    return tuple(keys)


def add(path: Path, key: Key, *, only_first: bool = False) -> bool:
    """Writes a key down. only_first: unless there is one already, then False. Raises KeysError, OSError."""
    with _changing(path) as keys:
        if only_first and keys:
            return False
        if any(key.name == other.name for other in keys):
            raise KeysError(f"there is a key of this name already: arpg keys revoke {key.name}")
        _write(path, (*keys, key))
        return True


def revoke(path: Path, name: str) -> None:
    """Raises KeysError where there is none of this name."""
    with _changing(path) as keys:
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            raise KeysError(f"there is no key of this name in {path}")
        _write(path, left)


class KeyRing:
    """The keys that count now.

    A key is needed as soon as the file is there, and stays so when it goes away: whoever deletes it locks the door.
    """

    REREAD_SECONDS = 0.5

    def __init__(self, path: Path, *, needed: bool) -> None:
        self._path = path
        self._needed = needed
        self._keys: dict[str, Key] = {}
        self._held: dict[str, Key] = {}  # by this process alone
        self._signature: tuple[int, ...] = ()
        self._looked = float("-inf")
        self._told = ""
        if self._stat():
            self._read()

    @property
    def needed(self) -> bool:
        self._refresh()
        return self._needed

    def hold(self, key: Key) -> None:
        """One that could not be written down."""
        self._held[key.id] = key

    def empty(self) -> bool:
        self._refresh()
        return not self._keys and not self._held

    def find(self, text: str) -> Client | None:
        """Whose key it is."""
        match = _TEXT.fullmatch(text)
        key = self._get(match[1]) if match else None
        right = hmac.compare_digest(_digest(text), key.sha256 if key else _NOBODY)
        return _client(key) if key is not None and right else None

    def by_id(self, identity: str) -> Client | None:
        """For what was signed in the name of a key; None once it is revoked."""
        key = self._get(identity)
        return None if key is None else _client(key)

    def _get(self, identity: str) -> Key | None:
        self._refresh()
        return self._keys.get(identity) or self._held.get(identity)

    def _refresh(self) -> None:
        if time.monotonic() - self._looked < self.REREAD_SECONDS:
            return
        try:
            signature = self._stat()
            if signature == self._signature:
                return
            if signature:
                self._read()
                return
            if self._keys:
                log.error("the keys are gone: nobody gets in")
            self._keys, self._signature = {}, ()
        except (KeysError, OSError) as error:
            self._signature = ()  # looked at again
            if str(error) != self._told:
                self._told = str(error)
                log.error("the keys stay as they were: %s", error)

    def _read(self) -> None:
        signature = self._stat()
        self._needed = True
        self._keys = {key.id: key for key in read(self._path)}
        self._signature, self._told = signature, ""

    def _stat(self) -> tuple[int, ...]:
        """() where there is no file. Raises KeysError where that can't be said."""
        self._looked = time.monotonic()
        try:
            found = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise KeysError(f"{self._path} can't be looked at ({type(error).__name__})") from None
        return found.st_mtime_ns, found.st_size, found.st_ino


def loopback(host: str) -> bool:
    """Whether only this machine reaches an address that is listened at."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _client(key: Key) -> Client:
    return Client(
        name=key.name,
        key_id=key.id,
        scopes=frozenset(key.scopes),
        weight=key.weight,
        quota=key.quota,
        rate=key.rate,
        priority=key.priority,
    )


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[tuple[Key, ...]]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_name(path.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield read(path) if path.exists() else ()


def _write(path: Path, keys: Iterable[Key]) -> None:
    new = path.with_name(path.name + ".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        with contextlib.suppress(FileNotFoundError):
            # Whose it is, it stays: a server that runs as somebody else than root must go on reading it.
            old, own = path.stat(), os.fstat(file.fileno())
            if (old.st_uid, old.st_gid) != (own.st_uid, own.st_gid):
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
        file.writelines(key.model_dump_json() + "\n" for key in keys)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
