"""The file of keys: one JSON object a line.

Every process that reads the file sees a change within a second.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from service.auth.keys import KEY_FORMAT, Client, Key, KeysError, client_of, digest

log = logging.getLogger(__name__)

_NO_DIGEST = "0" * 64


def read(path: Path) -> tuple[Key, ...]:
    """Raises KeysError, FileNotFoundError."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"can't read {path} ({type(error).__name__})") from None
    keys = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                keys.append(Key.model_validate_json(line))
            except ValidationError as error:
                field = ".".join(map(str, error.errors()[0]["loc"])) or "JSON"
                raise KeysError(f"{path}, line {number}: invalid {field}") from None
    return tuple(keys)


def add(path: Path, key: Key, *, only_first: bool = False) -> bool:
    """Stores a key. only_first: does nothing and returns False if the file holds a key already.

    Raises KeysError, OSError.
    """
    with _changing(path) as keys:
        if only_first and keys:
            return False
        if any(key.name == other.name for other in keys):
            raise KeysError(f"a key named {key.name} exists already; to replace it, first: arpg keys revoke {key.name}")
        _write(path, (*keys, key))
        return True


def revoke(path: Path, name: str) -> None:
    """Raises KeysError if no key has this name."""
    with _changing(path) as keys:
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            raise KeysError(f"{path} has no key named {name}")
        _write(path, left)


class KeyStore:
    """The keys that are valid now.

    A key is needed as soon as the file exists. It stays needed when the file is deleted, so deleting the file locks
    everybody out instead of letting everybody in.
    """

    REREAD_SECONDS = 0.5

    def __init__(self, path: Path, *, needed: bool) -> None:
        self._path = path
        self._needed = needed
        self._keys: dict[str, Key] = {}  # by id
        self._in_memory: dict[str, Key] = {}  # of this process alone
        self._signature: tuple[int, ...] = ()
        self._checked_at = float("-inf")
        self._logged = ""
        if self._stat():
            self._read()

    @property
    def needed(self) -> bool:
        self._refresh()
        return self._needed

    def add_in_memory(self, key: Key) -> None:
        """For a key that could not be written to the file: valid until the process ends."""
        self._in_memory[key.id] = key

    def empty(self) -> bool:
        self._refresh()
        return not self._keys and not self._in_memory

    def find(self, text: str) -> Client | None:
        """The client that a key's text belongs to."""
        match = KEY_FORMAT.fullmatch(text)
        key = self._get(match[1]) if match else None
        # Compared for an unknown key too, so that the time taken tells nothing.
        equal = hmac.compare_digest(digest(text), key.sha256 if key else _NO_DIGEST)
        return client_of(key) if key is not None and equal else None

    def by_id(self, key_id: str) -> Client | None:
        """The client of a key that signed something; None once the key is revoked."""
        key = self._get(key_id)
        return None if key is None else client_of(key)

    def _get(self, key_id: str) -> Key | None:
        self._refresh()
        return self._keys.get(key_id) or self._in_memory.get(key_id)

    def _refresh(self) -> None:
        if time.monotonic() - self._checked_at < self.REREAD_SECONDS:
            return
        try:
            signature = self._stat()
            if signature == self._signature:
                return
            if signature:
                self._read()
                return
            if self._keys:
                log.error("the key file %s was deleted: every request is refused", self._path)
            self._keys, self._signature = {}, ()
        except (KeysError, OSError) as error:
            self._signature = ()  # read again at the next refresh
            if str(error) != self._logged:
                self._logged = str(error)
                log.error("the keys stay as they were: %s", error)

    def _read(self) -> None:
        signature = self._stat()
        self._needed = True
        self._keys = {key.id: key for key in read(self._path)}
        self._signature, self._logged = signature, ""

    def _stat(self) -> tuple[int, ...]:
        """() if the file does not exist. Raises KeysError if that can't be determined."""
        self._checked_at = time.monotonic()
        try:
            found = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise KeysError(f"can't stat {self._path} ({type(error).__name__})") from None
        return found.st_mtime_ns, found.st_size, found.st_ino


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[tuple[Key, ...]]:
    """Locks the file and yields the keys in it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_name(path.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield read(path) if path.exists() else ()


def _write(path: Path, keys: Iterable[Key]) -> None:
    new = path.with_name(path.name + ".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        with contextlib.suppress(FileNotFoundError):
            # The owner stays: when root changes the file, a server that runs as another user must still read it.
            old, own = path.stat(), os.fstat(file.fileno())
            if (old.st_uid, old.st_gid) != (own.st_uid, own.st_gid):
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
        file.writelines(key.model_dump_json() + "\n" for key in keys)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
