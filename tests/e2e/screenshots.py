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

DEMO = REPOSITORY / "engine" / "weights" / "demo"
SETTLED = "!document.querySelector('#pictures img:not(.under)') || " + (
    "[...document.querySelectorAll('#pictures img:not(.under)')].every(i => getComputedStyle(i).opacity === '1')"
)
MOST_BYTES = 200_000


def begin(page: Page, name: str, n: int, seed: int) -> None:
    choose(page, n=str(n), seed=str(seed), **{"class": name})
    draw(page)


def drawing(page: Page) -> None:
    """Several jobs: one that is half drawn, and those before."""
    for name, seed in (("house", 4), ("rocket", 11)):
        begin(page, name, 1, seed)
        until(page, DRAWN)
    begin(page, "mushroom", 4, 7)
    until(page, f"/^Step 4[0-9] of/.test({STATUS})")


def inpainting(page: Page) -> None:
    """A mask beside what came of it."""
    begin(page, "mushroom", 1, 7)
    until(page, DRAWN)
    act(page, "Edit")
    until(page, "document.getElementById('mask').checkVisibility()")
    drag(page, "#mask", (0.3, 0.35), (0.5, 0.3), (0.7, 0.35))
    begin(page, "mushroom", 4, 3)
    until(page, f"{DRAWN} && ({SETTLED})")


def outpainting(page: Page) -> None:
    begin(page, "house", 1, 4)
    until(page, DRAWN)
    act(page, "Edit")
    task(page, "outpaint")
    begin(page, "house", 1, 5)
    until(page, f"{DRAWN} && ({SETTLED})")


def scrubbing(page: Page) -> None:
    """On a phone: a picture as it was after a part of its steps."""
    begin(page, "rocket", 1, 4)
    until(page, f"{DRAWN} && ({SETTLED})")
    page.locator(".timeline input").focus()
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    page.locator("#job-bar").scroll_into_view_if_needed()


VIEWS: dict[str, tuple[Callable[[Page], None], int, int, bool]] = {
    "drawing": (drawing, 1440, 900, False),
    "inpainting": (inpainting, 1920, 1080, True),
    "outpainting": (outpainting, 1440, 900, True),
    "phone": (scrubbing, 390, 844, False),
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
        serving(Path(data), DEMO, ready_seconds=600) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for name in VIEWS:
            print(shoot(browser, str(server.client.base_url), name, folder))
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "playground")
