"""What the page's tests share: its words, its fields, and how it is opened."""

from __future__ import annotations

from tests.support.api import Api
from tests.support.browser import Page

READY = "document.getElementById('draw') && !document.getElementById('draw').disabled"
STATUS = "document.getElementById('status').textContent"
DRAWN = f"{STATUS}.startsWith('Done') && document.querySelector('figure img.there')"


def open_page(page: Page, url: str) -> None:
    page.problems.clear()
    page.open(url)
    page.wait(READY)


def choose(page: Page, **fields: str) -> None:
    for name, value in fields.items():
        element = f"document.getElementById('{name}')"
        page.run(f"{element}.value = '{value}', {element}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def task(page: Page, name: str) -> None:
    page.run(f"document.querySelector('[name=task][value={name}]').click()")


def submit(page: Page) -> None:
    page.run("document.getElementById('form').requestSubmit()")


def lose_the_stream(page: Page, api: Api) -> None:
    """The server lets go of the page, which will come back for the rest some seconds later."""
    api.loop.call_soon_threadsafe(api.lifecycle.closing.set)
    api.loop.call_soon_threadsafe(api.lifecycle.closing.clear)
    page.wait(f"{STATUS}.endsWith('trying again…')")
