"""Captions are cleaned exactly as the authors' code does it."""

from __future__ import annotations

import json

import pytest

from engine.text.cleaning import clean_caption
from tests.support.tiny import GOLDEN

PAIRS: list[tuple[str, str]] = json.loads((GOLDEN / "llamagen_t2i_captions.json").read_text())["pairs"]


@pytest.mark.parametrize(("text", "cleaned"), PAIRS)
def test_captions_are_cleaned_as_published(text: str, cleaned: str) -> None:
    assert clean_caption(text) == cleaned


def test_what_looks_like_markup_but_is_none_stays() -> None:
    """The authors' parser raises an error here."""
    assert clean_caption("a sign that reads <![x") == "a sign that reads <! x"
