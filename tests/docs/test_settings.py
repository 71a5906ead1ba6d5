"""docs/settings.md has every setting."""

from __future__ import annotations

from service.settings import Settings
from tests.docs.settings import FILE, page


def test_the_page_of_settings_is_that_of_the_code() -> None:
    assert FILE.read_text() == page(), "write it again: make settings"
    assert page().count("\n| `") == len(Settings.model_fields)
