"""The mask's tools: rectangle, invert, a mask from a file, zoom; and fingers, which scroll until a tool is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.support.api import Api, noise, png, spec_of
from tests.support.playground import choose, chromium, drag, draw, open_page, tab_of, task, until

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")

WIDTH, HEIGHT = 64, 48
# Where the mask is painted, as rows of 0 and 1.
PAINTED = """(c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  return Array.from({length: c.height}, (_, y) => Array.from({length: c.width}, (_, x) =>
    +(d[(y * c.width + x) * 4 + 3] >= 128))); })(document.getElementById('mask'))"""
SELECTED = "document.getElementById('selected').textContent"
SCALE = "new DOMMatrix(getComputedStyle(document.querySelector('#board .layer')).transform).a"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """4:3, as from a camera."""
    (tmp_path / "photo.png").write_bytes(png(noise(HEIGHT, WIDTH)))
    return tmp_path / "photo.png"


def take(page: Page, api: Api, photo: Path) -> None:
    open_page(page, api.url)
    task(page, "inpaint")
    page.set_input_files("#choose input", photo)
    until(
        page, f"document.getElementById('mask').checkVisibility() && document.getElementById('mask').width === {WIDTH}"
    )


def painted(page: Page) -> np.ndarray:
    return np.array(page.evaluate(PAINTED), dtype=bool)


def test_rectangle_invert_file_and_zoom(
    tab: Page, own_api: Api, photo: Path, tmp_path: Path, problems: list[str]
) -> None:
    take(tab, own_api, photo)
    # The picture has its own shape.
    box = tab.locator("#board").bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(WIDTH / HEIGHT, rel=0.02)

    tab.click("#rectangle")
    drag(tab, "#mask", (0.25, 0.25), (0.5, 0.4), (0.75, 0.5))
    mask = painted(tab)
    rows, cols = np.nonzero(mask)
    assert (rows.min(), rows.max() + 1, cols.min(), cols.max() + 1) == (12, 24, 16, 48)
    assert mask[12:24, 16:48].all()
    until(tab, f"{SELECTED} === '2 of 16 tokens will be redrawn.'")
    tab.click("#invert")
    assert np.array_equal(painted(tab), ~mask)
    tab.click("#undo")
    assert np.array_equal(painted(tab), mask)

    # Saved, and loaded again after it was cleared.
    with tab.expect_download() as saved:
        tab.click("#save-mask")
    saved.value.save_as(tmp_path / "mask.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "mask.png").convert("L")) > 0, mask)
    tab.click("#clear")
    assert not painted(tab).any()
    tab.set_input_files("#load-mask", tmp_path / "mask.png")
    until(tab, f"{SELECTED} === '2 of 16 tokens will be redrawn.'")
    assert np.array_equal(painted(tab), mask)

    # With zoom the same stroke on the screen paints a smaller part, where it is seen.
    tab.click("#clear")
    tab.click("#zoom-in")
    tab.click("#zoom-in")
    assert tab.evaluate(SCALE) == pytest.approx(2.25)
    board = tab.locator("#board").bounding_box()
    assert board is not None
    at = (board["x"] + board["width"] / 4, board["y"] + board["height"] / 4)
    tab.mouse.move(*at)
    tab.mouse.down()
    tab.mouse.move(board["x"] + board["width"] / 2, board["y"] + board["height"] / 2)
    tab.mouse.up()
    rows, cols = np.nonzero(painted(tab))
    seen = 0.5 - 0.25 / 2.25  # the middle stays in the middle
    assert (rows.min(), cols.min()) == pytest.approx((HEIGHT * seen, WIDTH * seen), abs=1)
    assert (rows.max() + 1, cols.max() + 1) == pytest.approx((HEIGHT / 2, WIDTH / 2), abs=1)
    # With the hand, the pointer moves the picture.
    tab.keyboard.press("h")
    before = painted(tab)
    where = "document.querySelector('#board .layer').getBoundingClientRect().left"
    left = tab.evaluate(where)
    drag(tab, "#board", (0.5, 0.5), (0.6, 0.5))
    assert tab.evaluate(where) == pytest.approx(left + 0.1 * board["width"], abs=2)
    assert np.array_equal(painted(tab), before)

    choose(tab, n="1")
    draw(tab)
    claim = own_api.claim()
    cells = before.reshape(4, HEIGHT // 4, 4, WIDTH // 4).any(axis=(1, 3))
    assert np.array_equal(spec_of(claim).fixed_cells, ~cells)
    assert [problem for problem in problems if "willReadFrequently" not in problem] == []


class Fingers:
    """Touches of a real browser, not events of a script: it scrolls, too."""

    def __init__(self, page: Page, selector: str) -> None:
        self.client = page.context.new_cdp_session(page)
        page.locator(selector).scroll_into_view_if_needed()
        box = page.locator(selector).bounding_box()
        assert box is not None
        self.box = box

    def send(self, kind: str, *points: tuple[float, float]) -> None:
        """points: shares of the element's width and height."""
        touches: list[dict[str, Any]] = [
            {"x": self.box["x"] + x * self.box["width"], "y": self.box["y"] + y * self.box["height"], "id": k}
            for k, (x, y) in enumerate(points)
        ]
        self.client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    def move(self, *paths: tuple[tuple[float, float], tuple[float, float]]) -> None:
        """Each finger from a point to another."""
        self.send("touchStart", *(path[0] for path in paths))
        for part in (0.25, 0.5, 0.75, 1.0):
            self.send("touchMove", *((x + part * (u - x), y + part * (v - y)) for (x, y), (u, v) in paths))
        self.send("touchEnd")


def test_fingers_scroll_paint_and_zoom(browser: Browser, own_api: Api, photo: Path, problems: list[str]) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with tab_of(browser, problems, **phone) as page:
        take(page, own_api, photo)
        assert page.evaluate("document.getElementById('hand').ariaPressed") == "true"
        fingers = Fingers(page, "#board")
        before = page.evaluate("scrollY")
        fingers.move(((0.5, 0.9), (0.5, 0.1)))
        until(page, f"scrollY > {before} + 20")  # the page is not caught in the picture
        assert not painted(page).any()

        page.evaluate("document.getElementById('brush').click()")
        fingers = Fingers(page, "#board")
        before = page.evaluate("scrollY")
        fingers.move(((0.3, 0.5), (0.7, 0.5)))
        mask = painted(page)
        assert mask[HEIGHT // 2, round(0.3 * WIDTH) : round(0.7 * WIDTH)].all()
        assert page.evaluate("scrollY") == before
        # Beside the picture there is room for a finger that scrolls.
        left = page.evaluate("document.getElementById('board').getBoundingClientRect().left")
        assert left >= 24

        # Two fingers zoom, and paint nothing.
        fingers.move(((0.45, 0.5), (0.2, 0.5)), ((0.55, 0.5), (0.8, 0.5)))
        until(page, f"{SCALE} > 1.5")
        assert np.array_equal(painted(page), mask)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
