"""Every link of a document to a file of the repository leads somewhere, and so does its anchor."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import FENCE, documents
from tests.support.processes import REPOSITORY

LINK = re.compile(r"""\]\(([^)\s]+)\)|<img src="([^"]+)\"""")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Of its headings, as GitHub makes them."""
    kept = (re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading)) for heading in HEADING.findall(_prose(text)))
    return {heading.strip().lower().replace(" ", "-") for heading in kept}


def _prose(text: str) -> str:
    return FENCE.sub("", text)


def broken(document: Path, text: str) -> list[str]:
    """Links that lead nowhere."""
    found = []
    for markdown, html in LINK.findall(_prose(text)):
        link = markdown or html
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text() if name else text)):
            found.append(link)
    return found


@pytest.mark.parametrize("document", documents())
def test_every_link_leads_somewhere(document: str) -> None:
    path = REPOSITORY / document
    assert broken(path, path.read_text()) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = "# One thing\n[a](#one-thing) [b](#two) [c](README.md#start) [d](README.md#stop) ![e](none.webp) [f](docs)"
    assert broken(REPOSITORY / "CONTRIBUTING.md", text) == ["#two", "README.md#stop", "none.webp"]
