"""The playground in a real browser: how a test opens it, fills it in and waits for it."""

from __future__ import annotations

import asyncio
import shutil

from playwright.sync_api import Page

from tests.support.api import Api
from tests.support.waiting import PATIENCE

READY = "document.getElementById('draw') && !document.getElementById('draw').disabled"
STATUS = "document.getElementById('status').textContent"
DRAWN = f"{STATUS}.startsWith('Done') && document.querySelector('figure img.there')"


def chromium() -> str | None:
    """The system's Chromium, which Playwright drives. None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def until(page: Page, condition: str) -> None:
    """Wait until a JavaScript expression is true."""
    # A function, not an expression: the page's own policy forbids eval, which an expression would need at each poll.
    page.wait_for_function(f"() => Boolean({condition})", polling=50, timeout=PATIENCE * 1000)


def open_page(page: Page, url: str) -> None:
    page.goto(url)
    until(page, READY)


def choose(page: Page, **fields: str) -> None:
    for name, value in fields.items():
        element = f"document.getElementById('{name}')"
        page.evaluate(f"{element}.value = '{value}', {element}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def task(page: Page, name: str) -> None:
    page.evaluate(f"document.querySelector('[name=task][value={name}]').click()")


def submit(page: Page) -> None:
    page.evaluate("document.getElementById('form').requestSubmit()")


def drag(page: Page, selector: str, *points: tuple[float, float]) -> None:
    """With the mouse, over an element: each point a share of its width and of its height."""
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    assert box is not None, f"{selector} is not visible"
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for point in at[1:]:
        page.mouse.move(*point)
    page.mouse.up()


def lose_the_stream(page: Page, api: Api) -> None:
    """The server closes the page's stream. The page comes back for the rest some seconds later."""
    hub = api.app.services.hub

    async def restart() -> None:
        await hub.close()
        await hub.start(api.lifecycle.closing)

    asyncio.run_coroutine_threadsafe(restart(), api.loop).result()
    until(page, f"{STATUS}.endsWith('trying again…')")
