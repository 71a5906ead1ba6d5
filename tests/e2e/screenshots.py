"""Draws with the demo model and takes the pictures of the playground that the documentation shows: make screenshots."""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.playground import DRAWN, STATUS, act, choose, chromium, drag, draw, open_page, tab_of, task, until
from tests.support.processes import REPOSITORY
from tests.support.serve import serving

DEMO = REPOSITORY / "engine" / "weights" / "demo-text"
SETTLED = "!document.querySelector('#pictures img:not(.under)') || " + (
    "[...document.querySelectorAll('#pictures img:not(.under)')].every(i => getComputedStyle(i).opacity === '1')"
)
MOST_BYTES = 200_000


def begin(page: Page, prompt: str, n: int, seed: int) -> None:
    choose(page, n=str(n), seed=str(seed), prompt=prompt, steps="64")
    draw(page)


def drawing(page: Page) -> None:
    """Several jobs: one that is half drawn, and those before."""
    for prompt, seed in (("a blue house under a sunset", 4), ("a yellow rocket", 11)):
        begin(page, prompt, 1, seed)
        until(page, DRAWN)
    begin(page, "a red mushroom on a green floor", 4, 7)
    until(page, f"/^Step 4[0-9] of/.test({STATUS})")


def inpainting(page: Page) -> None:
    """A mask beside what came of it."""
    masked(page)
    begin(page, "a teal mushroom on a green floor", 4, 3)
    until(page, f"{DRAWN} && ({SETTLED})")


def masked(page: Page) -> None:
    begin(page, "a red mushroom on a green floor", 1, 7)
    until(page, DRAWN)
    act(page, "Edit")
    until(page, "document.getElementById('mask').checkVisibility()")
    page.evaluate("document.getElementById('rectangle').click()")  # on a phone the hand is chosen first
    drag(page, "#mask", (0.12, 0.18), (0.5, 0.4), (0.9, 0.62))
    page.locator("#board").scroll_into_view_if_needed()


def outpainting(page: Page) -> None:
    begin(page, "a yellow rocket", 1, 11)
    until(page, DRAWN)
    act(page, "Edit")
    task(page, "outpaint")
    begin(page, "a yellow rocket", 1, 5)
    until(page, f"{DRAWN} && ({SETTLED})")


def forking(page: Page) -> None:
    """Four pictures that share their first steps."""
    begin(page, "a green tree", 1, 4)
    until(page, DRAWN)
    choose(page, n="4", seed="9", steps="64")
    back(page, 16)
    act(page, "Fork")
    until(page, f"document.getElementById('job-details').textContent.startsWith('Fork') && {DRAWN} && ({SETTLED})")


def back(page: Page, last: int) -> None:
    """To the last event at or before a step: on a busy machine an event has several steps."""
    page.locator(".timeline input").focus()
    while page.evaluate("parseInt(document.querySelector('.timeline output').value.slice(5))") > last:
        page.keyboard.press("ArrowLeft")


def scrubbing(page: Page) -> None:
    """On a phone: a picture as it was after a part of its steps."""
    begin(page, "a yellow rocket", 1, 4)
    until(page, f"{DRAWN} && ({SETTLED})")
    back(page, 40)
    page.locator("#job-bar").scroll_into_view_if_needed()


VIEWS: dict[str, tuple[Callable[[Page], None], int, int, bool]] = {
    "drawing": (drawing, 1440, 900, False),
    "inpainting": (inpainting, 1920, 1080, True),
    "outpainting": (outpainting, 1440, 900, True),
    "forking": (forking, 1920, 1080, False),
    "phone": (scrubbing, 390, 844, False),
    "phone-mask": (masked, 390, 844, True),
}


def shoot(browser: Browser, url: str, name: str, folder: Path) -> Path:
    arrange, width, height, dark = VIEWS[name]
    options = {"viewport": {"width": width, "height": height}, "color_scheme": "dark" if dark else "light"}
    with tab_of(browser, [], **options, has_touch=width < 500) as page:
        open_page(page, url)
        arrange(page)
        picture = Image.open(io.BytesIO(page.screenshot()))
    file = folder / f"{name}.webp"
    picture.convert("RGB").save(file, quality=82, method=6)
    assert file.stat().st_size <= MOST_BYTES, f"{file} has {file.stat().st_size} bytes"
    return file


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as data,
        serving(Path(data), DEMO) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for name in VIEWS:
            print(shoot(browser, str(server.client.base_url), name, folder))
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "playground")
