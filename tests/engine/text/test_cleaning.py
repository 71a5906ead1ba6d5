"""Captions are cleaned exactly as the authors' code does it."""

from __future__ import annotations

import json

import pytest

from engine.text.cleaning import clean_caption, dropped_words
from tests.support.tiny import GOLDEN

PAIRS: list[tuple[str, str]] = json.loads((GOLDEN / "llamagen_t2i_captions.json").read_text())["pairs"]


@pytest.mark.parametrize(("text", "cleaned"), PAIRS)
def test_captions_are_cleaned_as_published(text: str, cleaned: str) -> None:
    assert clean_caption(text) == cleaned


def test_what_looks_like_markup_but_is_none_stays() -> None:
    """The authors' parser raises an error here."""
    assert clean_caption("a sign that reads <![x") == "a sign that reads <! x"


def test_half_a_surrogate_pair_is_one_unknown_character() -> None:
    assert clean_caption("cats/\ud83d") == clean_caption("cats/\ufffd")


@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        ("A “Red” t-shirt, <b>bold</b> &amp; 10x12 cm", ("10x12",)),
        ("猫 cat on a 毛布blanket", ("猫", "毛布blanket")),
        ("photo by @someone, see www.shop.com; free shipping", ("@someone,", "www.shop.com;", "free", "shipping")),
        ("a%20plus+sign", ()),
        ("this-is-my-cute-cat-photo of a café", ()),
        ("", ()),
    ],
)
def test_the_words_that_cleaning_drops_are_known(text: str, dropped: tuple[str, ...]) -> None:
    assert dropped_words(text, clean_caption(text)) == dropped
