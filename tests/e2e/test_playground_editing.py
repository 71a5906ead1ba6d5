"""The page edits, against the real engine: a painted mask, borders, a fork's shared steps; and what a user brings."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from tests.support.api import Api, frames, noise, png, spec_of
from tests.support.playground import (
    DRAWN,
    READY,
    STATUS,
    TOASTS,
    act,
    choose,
    chromium,
    drag,
    draw,
    open_page,
    submit,
    task,
    until,
)
from tests.support.serve import serving
from tests.support.tiny import random_folder

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")

WRONG = "Object.fromEntries([...document.querySelectorAll('main .wrong')].map(w => [w.id, w.textContent]))"
# Where the mask is painted, as rows of 0 and 1.
PAINTED = """(c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  return Array.from({length: c.height}, (_, y) => Array.from({length: c.width}, (_, x) =>
    +(d[(y * c.width + x) * 4 + 3] >= 128))); })(document.getElementById('mask'))"""
CELL = 2  # pixels a token of the model below


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A real worker of a model that draws 8×8 tokens of 2×2 pixels."""
    folder = random_folder(tmp_path_factory.mktemp("model"), grid=(8, 8))
    with serving(tmp_path_factory.mktemp("var"), folder) as server:
        yield server.client


@pytest.fixture
def page(tab: Page, served: httpx.Client) -> Page:
    """With a picture drawn, and chosen to be worked on."""
    open_page(tab, str(served.base_url))
    choose(tab, n="1", seed="7", steps="64")
    draw(tab)
    until(tab, DRAWN)
    act(tab, "Edit")
    until(tab, "!document.getElementById('mask').hidden && document.getElementById('mask').width === 16")
    return tab


def complaints(problems: list[str]) -> list[str]:
    """What the browser says of the page; not of how often these tests read its canvases."""
    return [problem for problem in problems if "willReadFrequently" not in problem]


def pixels(client: httpx.Client, url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(client.get(url).content)))


def finished(page: Page, client: httpx.Client) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The job whose pictures the page shows, and these."""
    until(page, DRAWN)
    urls = page.evaluate("[...document.querySelectorAll('figcaption a')].map(a => a.pathname)")
    return client.get(urls[0].partition("/images/")[0]).json(), [pixels(client, url) for url in urls]


def told(client: httpx.Client, job: dict[str, Any]) -> list[dict[str, Any]]:
    """All tokens of its first picture, in the order of their steps."""
    events = frames(iter(client.get(job["urls"]["events"]).text.split("\n")))
    return [e["data"] for e in events if e["event"] == "tokens" and e["data"]["image_index"] == 0]


SELECTED = "document.getElementById('selected').textContent"
# Cells of 16×16 pixels in which the outline has a line.
OUTLINED = """(c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const cells = new Set();
  for (let k = 3; k < d.length; k += 4) if (d[k]) {
    const pixel = (k - 3) / 4;
    cells.add(Math.floor(pixel / c.width / 16) * 8 + Math.floor(pixel % c.width / 16)); }
  return [...cells]; })(document.getElementById('over'))"""


def test_only_what_the_mask_covers_changes(page: Page, served: httpx.Client, problems: list[str]) -> None:
    parent, [before] = finished(page, served)
    choose(page, size="20")
    drag(page, "#mask", (0.9, 0.9), (0.7, 0.9))  # a stroke that is taken back
    assert np.array(page.evaluate(PAINTED)).any()
    page.evaluate("document.getElementById('mask').focus()")
    page.keyboard.press("Control+z")
    assert not np.array(page.evaluate(PAINTED)).any()
    drag(page, "#mask", (0.2, 0.3), (0.6, 0.3))
    stroke = np.array(page.evaluate(PAINTED), dtype=bool)
    assert stroke.any()
    for key in ("[", "[", "ArrowDown", "ArrowDown", "ArrowDown", "Space"):  # a dab by the keys alone
        page.keyboard.press(key)
    mask = np.array(page.evaluate(PAINTED), dtype=bool)
    assert (mask & ~stroke).any()
    assert not mask[:, 12:].any()
    # Before it is drawn: which tokens that will be. Around them a line is drawn, and nowhere else.
    snapped = mask.reshape(8, CELL, 8, CELL).any(axis=(1, 3))
    until(page, f"{SELECTED} === '{snapped.sum()} of 64 tokens will be redrawn.'")
    assert page.evaluate("document.getElementById('over').checkVisibility()")
    outlined = page.evaluate(OUTLINED)
    assert outlined
    assert all(snapped.flat[cell] for cell in outlined)
    draw(page)
    job, [after] = finished(page, served)

    assert job["task"] == "inpaint"
    assert job["request"]["source"] == {"job": parent["id"], "image": 0}  # its own tokens, and no upload
    assert job["request"]["seamless"] is True  # as whoever says nothing has it
    assert np.array_equal(after[~mask], before[~mask])
    assert not np.array_equal(after[mask], before[mask])
    assert job["mask_tokens"] == snapped.astype(int).tolist()
    # As long as the button is held, the picture is seen as it was.
    seen = "getComputedStyle(document.querySelector('figure img.there')).opacity"
    until(page, f"{seen} === '1'")
    page.get_by_role("button", name="Hold to see picture 1 before the change").dispatch_event("pointerdown")
    assert page.evaluate(seen) == "0"
    assert page.evaluate("getComputedStyle(document.querySelector('figure img.under')).opacity") == "1"
    page.get_by_role("button", name="Hold to see picture 1 before the change").dispatch_event("pointerup")
    until(page, f"{seen} === '1'")
    assert complaints(problems) == []


def test_a_fork_shares_the_steps_up_to_the_one_that_is_shown(
    page: Page, served: httpx.Client, problems: list[str]
) -> None:
    parent, [before] = finished(page, served)
    choose(page, seed="8")
    events = told(served, parent)
    shared = events[: len(events) // 2]
    cells = {cell: token for event in shared for cell, token in zip(event["positions"], event["tokens"], strict=True)}
    # The slider shows the picture as it was then: what came later is empty.
    drawn = """(c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const seen = [];
      for (let cell = 0; cell < 64; cell++)
        if (d[((Math.floor(cell / 8) * 4 * c.width) + cell % 8 * 4) * 4 + 3]) seen.push(cell);
      return seen; })(document.querySelector('figure canvas'))"""
    slider = "document.querySelector('.timeline input')"
    assert page.evaluate(drawn) == [*range(64)]
    page.locator(".timeline input").focus()
    for _ in range(len(events) - len(shared)):
        page.keyboard.press("ArrowLeft")
    step = shared[-1]["step"]
    assert page.evaluate(f"{slider}.getAttribute('aria-valuetext')") == f"step {step}"
    assert page.evaluate(drawn) == sorted(cells)
    # The pointer alone shows an earlier step, and leaves the chosen one.
    box = page.locator(".timeline input").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
    until(page, f"{drawn}.length === 0")
    page.mouse.move(0, 0)
    until(page, f"{drawn}.length === {len(cells)}")
    act(page, "Fork")
    until(page, "document.getElementById('job-details').textContent.startsWith('Fork of step')")
    job, [after] = finished(page, served)
    assert job["fork"] == {"job": parent["id"], "image": 0, "step": step}
    forked = {cell: token for e in told(served, job) for cell, token in zip(e["positions"], e["tokens"], strict=True)}
    assert len(forked) == 64
    assert cells.items() <= forked.items()
    assert not np.array_equal(after, before)
    # The page knows the steps that the fork shares, also when it is opened again.
    own = [event for event in told(served, job) if set(event["positions"]) - cells.keys()]
    for _ in range(2):
        until(page, f"{slider}.max === '{len(shared) + len(own)}'")
        page.reload()
        until(page, DRAWN)
    assert complaints(problems) == []


def test_a_border_a_variation_and_a_larger_grid(page: Page, served: httpx.Client, problems: list[str]) -> None:
    _, [before] = finished(page, served)
    task(page, "outpaint")
    choose(page, left="0", right="0", up="0", down="2")
    # By the handle: it snaps to whole tokens of two pixels.
    handle = page.locator("#left-handle")
    box, width = handle.bounding_box(), page.evaluate("document.getElementById('picture').clientWidth")
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 - width * 3.2 / 16, box["y"])
    page.mouse.up()
    assert page.evaluate("document.getElementById('left').value") == "4"
    handle.press("ArrowRight")
    assert handle.get_attribute("aria-valuenow") == "2"
    handle.press("ArrowLeft")
    page.evaluate("document.getElementById('seamless').click()")
    choose(page, steps="4")
    draw(page)
    job, [wide] = finished(page, served)
    # It is drawn in windows: the steps of all are more than the form asks for.
    told_of = f"Outpaint · {job['model']} · 20 × 18 · {job['usage']['steps']} steps: up to 4 in each window"
    assert page.evaluate("document.getElementById('job-details').textContent") == told_of
    assert job["request"]["seamless"] is False
    assert job["padding"] == {"left": 4, "right": 0, "up": 0, "down": 2}
    assert wide.shape == (18, 20, 3)
    assert np.array_equal(wide[:16, 4:], before)
    task(page, "vary")
    choose(page, keep="0.75", n="2")
    draw(page)
    job, made = finished(page, served)
    assert (job["request"]["keep"], len(made)) == (0.75, 2)
    assert sum(sum(row) for row in job["mask_tokens"]) == 16
    task(page, "expand")
    choose(page, width="24", height="16", n="1")
    draw(page)
    job, [large] = finished(page, served)
    assert (job["task"], large.shape) == ("expand", (16, 24, 3))
    assert complaints(problems) == []


def bring(page: Page, how: str, kind: str, content: bytes) -> None:
    """Drops or pastes a file."""
    given = f"""const given = new DataTransfer();
      const bytes = Uint8Array.from(atob('{base64.b64encode(content).decode()}'), c => c.charCodeAt(0));
      given.items.add(new File([bytes], 'mine', {{type: '{kind}'}}));"""
    event = {
        "drop": "new DragEvent('drop', {dataTransfer: given, bubbles: true, cancelable: true})",
        "paste": "new ClipboardEvent('paste', {clipboardData: given, bubbles: true, cancelable: true})",
    }[how]
    page.evaluate(f"(() => {{ {given} document.body.dispatchEvent({event}); }})()")


def test_a_picture_that_is_brought_is_sent_with_its_mask(tab: Page, api: Api, problems: list[str]) -> None:
    open_page(tab, api.url)
    bring(tab, "drop", "text/plain", b"hello")
    assert tab.evaluate(TOASTS) == ["mine is not a PNG, JPEG or WebP picture. Choose one of these."]
    image = noise(20, 40)
    bring(tab, "paste", "image/png", png(image))
    until(tab, "document.getElementById('mask').checkVisibility() && document.getElementById('mask').width === 40")
    assert tab.evaluate("document.querySelector('[name=task]:checked').value") == "inpaint"
    choose(tab, n="1", feather="3")
    submit(tab)
    until(tab, "document.querySelector('main .wrong')")
    assert tab.evaluate(WRONG) == {"wrong-mask": "Paint the part that should be redrawn."}
    assert tab.evaluate("document.activeElement.id") == "mask"
    tab.keyboard.press("Space")
    mask = np.array(tab.evaluate(PAINTED), dtype=np.uint8) * 255
    draw(tab)
    until(tab, f"{STATUS}.startsWith('Waiting')")
    assert tab.evaluate(WRONG) == {}
    claim = api.claim()
    sent = api.queue(lambda _, __, blobs: both(blobs, spec_of(claim).blobs))
    assert np.array_equal(sent[0], image)
    assert np.array_equal(sent[1], mask)
    assert mask.any()
    assert (spec_of(claim).task, spec_of(claim).request["feather"], spec_of(claim).n) == ("inpaint", 3, 1)
    # What it starts from is seen from the beginning, at its place and in its own shape; and so is the result.
    assert tab.evaluate("document.querySelector('#pictures img.under').naturalWidth") == 40
    shape = "(b => b.clientWidth / b.clientHeight)(document.querySelector('#pictures .canvas'))"
    assert tab.evaluate(shape) == pytest.approx(2, rel=0.02)
    api.draw(claim)
    until(tab, DRAWN)
    assert tab.evaluate(shape) == pytest.approx(2, rel=0.02)
    assert tab.evaluate("document.querySelector('#pictures .canvas').clientWidth") >= 300, "no thumbnail"
    assert all("422" in complaint for complaint in complaints(problems))


async def both(blobs: Any, names: dict[str, str]) -> list[np.ndarray]:
    files = [await blobs.get(names[what]) for what in ("image", "mask")]
    return [
        np.asarray(Image.open(io.BytesIO(file)).convert(mode)) for file, mode in zip(files, ("RGB", "L"), strict=True)
    ]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_narrow_screen_needs_no_sideways_scrolling(tab: Page, api: Api, dark: bool, tmp_path: Path) -> None:
    tab.emulate_media(color_scheme="dark" if dark else "light")
    tab.set_viewport_size({"width": 360, "height": 820})
    tab.goto(api.url)
    until(tab, READY)
    bring(tab, "drop", "image/png", png(noise(20, 40)))
    until(tab, "document.getElementById('mask').checkVisibility()")
    for name in ("inpaint", "outpaint", "vary", "expand", "generate"):
        task(tab, name)
        assert tab.evaluate("document.documentElement.scrollWidth") == 360, name
        tab.evaluate("scrollTo(0, document.body.scrollHeight)")
        # What starts the drawing is in sight, wherever the page is scrolled to.
        assert tab.evaluate(
            "(b => b.top > 0 && b.bottom <= innerHeight)(document.getElementById('draw').getBoundingClientRect())"
        )
        tab.screenshot(path=tmp_path / f"{name}.png")
