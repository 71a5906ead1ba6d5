"""Captions cleaned as those that LlamaGen's text-to-image models were trained on (LlamaGen's code is MIT).

The rules made alt texts of web pages into captions. They drop links, file names, article numbers and phrases of shops,
and also Chinese characters. A prompt needs the same rules, because a model knows only what they leave.
"""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Sequence
from urllib.parse import unquote_plus

import ftfy
from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning
from bs4.exceptions import ParserRejectedMarkup
from ftfy.fixes import fix_surrogates

PASSES = 2
"""The authors clean each caption twice, and the second pass changes some of them again."""

Rules = Sequence[tuple[re.Pattern[str], str]]

HOST = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/\-]*\b/?(?!@)"
FORMATS = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
DASHES = (
    r"\-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63"
    r"\uff0d"
)
JOINED = re.compile("[-_]")
MOST_JOINED = 3


def _rules(*rules: tuple[str, str]) -> Rules:
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


LINKS = _rules(
    ("<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{HOST})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{HOST})", ""),  # also what the rule above has joined
)
CHARACTERS = _rules(
    (r"@\w+\b", ""),
    (r"[\u31c0-\u9fff]+", ""),  # CJK: strokes to unified ideographs; kana and hangul stay
    (f"[{DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
)
NUMBERS = _rules(
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # an IP address
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),  # backslash and n, not a line break
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{FORMATS})", ""),
)
PUNCTUATION = _rules(
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
WORDS = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{FORMATS})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # a size; the second x is Cyrillic
)
SPACING = _rules(
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)
ENDS = _rules(
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)

# A caption that is a URL or a file name is a caption all the same.
warnings.filterwarnings("ignore", category=MarkupResemblesLocatorWarning)


def clean_caption(text: str) -> str:
    """The caption that a text encoder reads. It can be empty, also where the text is not."""
    text = fix_surrogates(text)  # half of a surrogate pair can't be encoded; it becomes U+FFFD
    for _ in range(PASSES):
        text = _pass(text)
    return text


def dropped_words(text: str, caption: str) -> tuple[str, ...]:
    """The words of a text whose letters or digits are not all in its caption: what the cleaning removed of it."""
    kept = _letters(caption)
    words = ftfy.fix_text(_without_markup(unquote_plus(fix_surrogates(text)))).split()
    return tuple(dict.fromkeys(word for word in words if _letters(word.lower()) not in kept))


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _pass(text: str) -> str:
    text = _without_markup(_apply(LINKS, unquote_plus(text).strip().lower()))
    for rules in (CHARACTERS, NUMBERS, PUNCTUATION):
        text = _apply(rules, text)
    if len(JOINED.findall(text)) > MOST_JOINED:
        text = JOINED.sub(" ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    for rules in (WORDS, SPACING, ENDS):
        text = _apply(rules, text)
    return text.strip()


def _without_markup(text: str) -> str:
    try:
        return BeautifulSoup(text, "html.parser").get_text()
    except ParserRejectedMarkup:  # such as "<![": it is no markup, so it stays
        return text


def _apply(rules: Rules, text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text
