"""Folders of random models: one that draws in any order, and one of a fixed order. For the playground, a browser and a
server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from service.settings import Settings
from tests.support.api import Api, running_api
from tests.support.playground import chromium, open_page, tab_of
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

    with tab_of(browser, problems) as tab:
        yield tab


@pytest.fixture(scope="module")
def page_server(request: pytest.FixtureRequest, redis_socket: Path) -> Iterator[Api]:
    """A server whose jobs are those of one module, with a worker that its tests drive."""
    settings = Settings(
        redis_url=f"unix://{redis_socket}", namespace=request.module.__name__.rpartition(".")[2], _env_file=None
    )
    with running_api(settings) as api:
        api.show_card()
        yield api


@pytest.fixture
def own_api(page_server: Api) -> Iterator[Api]:
    yield page_server
    page_server.empty()


@pytest.fixture
def own_page(tab: Page, own_api: Api) -> Page:
    """The page of this server, ready to draw."""
    open_page(tab, own_api.url)
    return tab
