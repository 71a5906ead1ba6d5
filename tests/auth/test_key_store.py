"""The key store: the contents and permissions of its file, and that changes take effect at once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from service.auth import key_store, keys
from tests.support.keys import new_key


def test_the_file_holds_hashes_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.jsonl"
    text = new_key(path, "ann", rate=5)
    assert text not in path.read_text()
    assert hashlib.sha256(text.encode()).hexdigest() in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    store = key_store.KeyStore(path, needed=False)
    found = store.find(text)
    assert found is not None
    assert (found.name, found.rate, found.priority, found.scopes) == ("ann", 5, "normal", frozenset({"draw"}))


def test_the_file_keeps_its_owner_when_another_user_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, owner, given = tmp_path / "keys.jsonl", os.getuid() + 1, []
    new_key(path, "ann")
    monkeypatch.setattr(key_store.os, "fchown", lambda _, *whose: given.append(whose))
    new_key(path, "bob")
    assert given == []
    real = Path.stat

    def stat(self: Path, **more: Any) -> os.stat_result:
        found = real(self, **more)
        return os.stat_result((*found[:4], owner, *found[5:])) if self == path else found

    monkeypatch.setattr(Path, "stat", stat)
    new_key(path, "cy")
    assert given == [(owner, os.getgid())]


def test_keys_stay_valid_while_the_file_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_store.KeyStore, "REREAD_SECONDS", 0.0)
    path = tmp_path / "keys.jsonl"
    text = new_key(path, "ann")
    store = key_store.KeyStore(path, needed=False)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(key_store.Path, "stat", denied)
        assert store.needed
        assert store.find(text)
        assert caplog.text.count("the keys stay as they were") == 1
        with pytest.raises(keys.KeysError, match="can't stat"):
            key_store.KeyStore(path, needed=False)
    key_store.revoke(path, "ann")
    assert store.find(text) is None


def test_once_the_file_exists_a_key_stays_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_store.KeyStore, "REREAD_SECONDS", 0.0)
    path = tmp_path / "keys.jsonl"
    store = key_store.KeyStore(path, needed=False)
    assert not store.needed
    text = new_key(path, "ann")
    assert store.needed
    assert store.find(text)
    key_store.revoke(path, "ann")
    assert store.needed
    assert store.find(text) is None
    new = new_key(path, "ann")
    path.write_text(path.read_text() + "nonsense\n")
    assert store.find(new) is None  # the last valid keys stay
    path.write_text(path.read_text().replace("nonsense\n", ""))
    assert store.find(new)
    path.unlink()
    assert store.needed
    assert store.find(new) is None


@pytest.mark.parametrize("line", ["{", '{"name": "a"}', "[]", '{"name":"a","id":"00000000","sha256":"x"}', "\x00"])
def test_a_damaged_line_is_named_but_not_repeated(tmp_path: Path, line: str) -> None:
    path = tmp_path / "keys.jsonl"
    new_key(path, "ann")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(keys.KeysError, match="line 2") as raised:
        key_store.KeyStore(path, needed=False)
    assert path.read_text().split('"sha256":"')[1][:64] not in str(raised.value)


@pytest.mark.parametrize("name", ["local", "canary", "", "a b", "a/b", "a" * 65, "é"])
def test_a_name_is_a_plain_word_and_unique(tmp_path: Path, name: str) -> None:
    with pytest.raises(keys.KeysError):
        keys.make(name)
    path = tmp_path / "keys.jsonl"
    new_key(path, "ann")
    with pytest.raises(keys.KeysError, match="already"):
        new_key(path, "ann")


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, compared = tmp_path / "keys.jsonl", []
    text = new_key(path, "ann")
    real = key_store.hmac.compare_digest

    def compare(a: str, b: str) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(key_store.hmac, "compare_digest", compare)
    store = key_store.KeyStore(path, needed=True)
    assert store.find(text)
    assert store.find(text[:-1] + ("A" if text[-1] != "A" else "B")) is None
    assert store.find("arpg_00000000_" + "A" * 43) is None
    assert store.find("nonsense") is None
    assert len(compared) == 4  # unknown keys are compared too
    assert all(len(a) == len(b) == 64 for a, b in compared)
