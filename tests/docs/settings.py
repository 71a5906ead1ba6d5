"""docs/settings.md, made from service/settings.py: make settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from service.settings import Settings
from tests.support.processes import REPOSITORY

FILE = REPOSITORY / "docs" / "settings.md"
HEAD = """# Settings

Every setting is an environment variable of `arpg serve`, `arpg api` and `arpg worker`; a file `.env` in the working
directory may hold them, too. Lists are separated by commas. Options of a command beat variables. `make settings` writes
this page from [`service/settings.py`](../service/settings.py).

| variable | default | |
|---|---|---|
"""


def page() -> str:
    """Raises AssertionError where a setting has no description."""
    return HEAD + "".join(_row(name, field) for name, field in Settings.model_fields.items())


def _row(name: str, field: FieldInfo) -> str:
    assert field.description, f"{name} has no description"
    alias = field.validation_alias
    names = list(alias.choices) if isinstance(alias, AliasChoices) else [f"ARPG_{name.upper()}"]
    said = field.description.replace("|", "\\|")
    return f"| {' or '.join(f'`{each}`' for each in names)} | {_shown(field.default)} | {said} |\n"


def _shown(default: object) -> str:
    if default in (None, "", ()):
        return "unset"
    if isinstance(default, bool):
        return "`1`" if default else "`0`"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def write(file: Path = FILE) -> None:
    file.write_text(page())


if __name__ == "__main__":
    write()
