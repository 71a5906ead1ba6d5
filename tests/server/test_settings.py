"""Where settings come from, and which values are rejected."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.cli.main import main
from service.server.app import create_app
from service.settings import Settings, unknown_variables


def test_models_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARPG_MODELS", raising=False)
    assert Settings(_env_file=None).models == ("demo-text",)
    monkeypatch.setenv("ARPG_MODELS", "demo, path/to/folder,")
    assert Settings(_env_file=None).models == ("demo", "path/to/folder")
    assert Settings(models=["a,b"], _env_file=None).models == ("a,b",)  # from the command line
    monkeypatch.setenv("ARPG_MODELS", " , ")
    with pytest.raises(ValidationError, match="models"):
        Settings(_env_file=None)


def test_settings_come_from_the_environment_also_without_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "ARPG_HOST", "ARPG_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert (Settings(_env_file=None).host, Settings(_env_file=None).port) == ("127.0.0.1", 8000)
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("ARPG_REDIS_URL", "redis://:secret@db/0")
    settings = Settings(_env_file=None)
    assert (settings.host, settings.port, settings.redis_address) == ("0.0.0.0", 9000, "redis://:secret@db/0")
    assert "secret" not in repr(settings)
    monkeypatch.setenv("ARPG_PORT", "9001")
    assert Settings(_env_file=None).port == 9001


def test_a_variable_that_is_no_setting_is_told_with_the_name_that_resembles_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert unknown_variables(["ARPG_PORT", "arpg_models", "ARPG_API_KEY", "PATH", "ARPG_ZZZ"]) == {"ARPG_ZZZ": None}
    monkeypatch.delenv("ARPG_REDIS_URL", raising=False)
    monkeypatch.setenv("ARPG_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ARPG_PROT", "8010")
    assert main(["api"]) == 2  # no Redis
    assert "ARPG_PROT is no setting, and has no effect; did you mean ARPG_PORT?" in caplog.text


@pytest.mark.parametrize("path", ["art", "/art/", "/", "/a b", "/art?x", "/art\n"])
def test_root_path_starts_with_a_slash_and_ends_without(path: str) -> None:
    with warnings.catch_warnings(action="error"):
        create_app(Settings(root_path="/a/b-c", redis_url="redis://x", _env_file=None))
    with pytest.raises(ValidationError, match="root_path"):
        Settings(root_path=path, _env_file=None)


@pytest.mark.parametrize("namespace", ["a}{ b\n", "arpg\n", " arpg", "a" * 41, ""])
def test_a_namespace_is_a_plain_word(namespace: str) -> None:
    assert Settings(namespace="art-2_b", _env_file=None).namespace == "art-2_b"
    with pytest.raises(ValidationError, match="namespace"):
        Settings(namespace=namespace, _env_file=None)
