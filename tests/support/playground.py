"""The playground in a real browser: how a test opens it, fills it in and waits for it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page

from service.jobs import Claim
from tests.support.api import Api, spec_of
from tests.support.waiting import PATIENCE

READY = "document.getElementById('draw') && !document.getElementById('draw').disabled"
STATUS = "document.getElementById('status').textContent"
DRAWN = f"{STATUS}.startsWith('Done')"
TOASTS = "[...document.querySelectorAll('.toast p')].map(p => p.textContent)"
JOBS = "[...document.querySelectorAll('#jobs .job')].map(j => j.dataset.status)"
ACTION = "[...document.querySelectorAll('figure')][{picture}].querySelector('.acts > [aria-label^=\"{name}\"]')"


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


def switch_to(page: Page, model: str) -> None:
    """Chooses another model, and waits until the form is arranged for it."""
    page.select_option("#models", model)
    until(page, f"document.getElementById('model').textContent.startsWith('{model}:')")


def task(page: Page, name: str) -> None:
    page.evaluate(f"document.querySelector('[name=task][value={name}]').click()")


def submit(page: Page) -> None:
    page.evaluate("document.getElementById('form').requestSubmit()")


def draw(page: Page) -> None:
    """Submits, and waits until the new job is shown."""
    count = page.evaluate(f"{JOBS}.length")
    submit(page)
    until(page, f"{JOBS}.length > {count} && document.querySelector('.job').getAttribute('aria-current') === 'true'")


def act(page: Page, name: str, picture: int = 0) -> None:
    """Presses a button under a picture: Fork, Edit, Link."""
    page.evaluate(ACTION.format(picture=picture, name=name) + ".click()")


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


def begin(api: Api, claim: Claim, *, step: int = 1, steps: int = 8) -> None:
    """The job is drawn, and its first picture has its first token."""
    started = {"attempt": claim.attempt, "images": spec_of(claim).n, "grid": [4, 4], "steps": steps, "known": 0}
    api.publish(claim, 1, "started", started)
    token = {"image_index": 0, "step": step, "steps": steps, "positions": [0], "tokens": [1]}
    api.publish(claim, 2, "tokens", token | {"n_done": 1, "n_total": 16})


@contextmanager
def tab_of(browser: Browser, problems: list[str], **options: Any) -> Iterator[Page]:
    """An empty tab with a profile of its own. problems: collects what its console and policies complain about, and
    exceptions in its scripts."""

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            problems.append(f"{message.text} {message.location['url']}")

    with browser.new_context(**{"viewport": {"width": 1180, "height": 820}, **options}) as context:
        tab = context.new_page()
        tab.on("console", note)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        yield tab


def findings(page: Page) -> list[str]:
    """What axe, the accessibility checker, finds in the page as it is."""
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found = page.evaluate("axe.run({resultTypes: ['violations']}).then(r => r.violations)")
    return [f"{each['id']}: {node['html']} {node['failureSummary']}" for each in found for node in each["nodes"]]


def lose_the_stream(page: Page, api: Api) -> None:
    """The server closes the page's stream. The page comes back for the rest some seconds later."""
    hub = api.app.services.hub

    async def restart() -> None:
        await hub.close()
        await hub.start(api.lifecycle.closing)

    asyncio.run_coroutine_threadsafe(restart(), api.loop).result()
