"""Folders of random models: one that draws in any order, and one of a fixed order. A browser for the playground."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.support.playground import chromium
from tests.support.tiny import random_folder

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"), grid=(8, 8))


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"), family="llamagen", name="raster", grid=(4, 4))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a module. Not for the session: Playwright's event loop would be in the way of other tests'."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def problems() -> list[str]:
    """What the console and the policies of `tab` complain about, and exceptions in its scripts."""
    return []


@pytest.fixture
def tab(browser: Browser, problems: list[str]) -> Iterator[Page]:
    """An empty tab with a profile of its own."""

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            problems.append(f"{message.text} {message.location['url']}")

    with browser.new_context(viewport={"width": 1180, "height": 820}) as context:
        tab = context.new_page()
        tab.on("console", note)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        yield tab
