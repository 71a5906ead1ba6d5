"""The page follows several jobs, and those of earlier: history, links, the request in code, the live panel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, Request

from service.jobs import BlobStore, Queue, WorkerCards
from tests.support.api import Api, spec_of
from tests.support.playground import (
    DRAWN,
    JOBS,
    STATUS,
    TOASTS,
    act,
    begin,
    choose,
    chromium,
    draw,
    findings,
    until,
)

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")

EXAMPLE = "document.getElementById('example').textContent"
SHOWN = "document.querySelector('#pictures img.there')?.alt"
PAGES = 7


@pytest.fixture
def api(own_api: Api) -> Api:
    return own_api


@pytest.fixture
def page(own_page: Page) -> Page:
    return own_page


def test_two_jobs_at_once_and_each_can_be_shown_and_cancelled(page: Page, api: Api, problems: list[str]) -> None:
    for name in ("cube", "torus"):
        choose(page, n="1", **{"class": name})
        draw(page)
    until(page, f"{STATUS} === 'Waiting: 1 job ahead.'")
    assert page.evaluate(f"{JOBS}.slice(0, 2)") == ["queued", "queued"]
    assert page.evaluate("document.getElementById('under-way').textContent") == "2 jobs under way"
    first, second = api.claim(), api.claim()
    begin(api, second)
    begin(api, first, step=2)
    until(page, f"{JOBS}[0] === 'running' && {JOBS}[1] === 'running'")
    until(page, f"{STATUS}.startsWith('Step 1 of 8')")
    # The other one, whose tokens came meanwhile.
    page.click("#jobs li:nth-child(2) button")
    until(page, f"{STATUS}.startsWith('Step 2 of 8')")
    assert page.evaluate("document.getElementById('job-title').textContent") == "cube"
    page.click("#cancel")
    until(page, f"{STATUS} === 'Cancelling…'")
    api.queue(lambda q, _, __: q.finish(first.id, 1, 3, state="canceled", event="canceled", data={}))
    until(page, f"{STATUS} === 'Cancelled.'")
    api.finish(second, 3, [*spec_of(second).seeds])
    until(page, f"{JOBS}[0] === 'succeeded'")
    page.click("#jobs li:nth-child(1) button")
    until(page, f"{DRAWN} && {SHOWN}?.startsWith('torus')")
    assert problems == []


def test_a_job_that_drew_nothing_says_why_in_place_of_empty_pictures(page: Page, api: Api) -> None:
    shown = "[...document.querySelectorAll('figure .act')].filter(a => a.checkVisibility()).map(a => a.textContent)"
    why = "(n => n.checkVisibility() ? n.firstElementChild.textContent : null)(document.getElementById('nothing'))"
    choose(page, n="4", seed="5", **{"class": "tree"})
    draw(page)
    assert page.evaluate(shown) == [], "there is no step to fork from"
    claim = api.claim()
    error = {"code": "out_of_memory", "message": "there was not memory enough"}
    api.queue(
        lambda q, _, __: q.finish(claim.id, 1, 1, state="failed", event="failed", data={"error": error}, error=error)
    )
    until(page, f"{STATUS} === 'Failed.'")
    said = "There was not enough memory to draw this. Draw fewer pictures, or a smaller one."
    assert page.evaluate(why) == said
    assert not page.is_visible("#pictures")
    assert findings(page) == []
    choose(page, n="1", seed="7", **{"class": "cone"})
    page.click("#reuse-failed")
    assert [page.input_value(f"#{name}") for name in ("n", "seed", "class")] == ["4", "5", "tree"]
    page.reload()
    until(page, f"{JOBS}[0] === 'failed'")
    page.click("#jobs li:nth-child(1) button")
    until(page, f"{why} === '{said}'")

    # One that is cancelled at once, and one that has begun: what it drew is seen, and can't be forked any more.
    draw(page)
    page.keyboard.press("Escape")
    until(page, f"{why} === 'This job was cancelled before anything was drawn.'")
    draw(page)
    assert page.is_visible("#pictures")
    claim = api.claim()
    begin(api, claim)
    until(page, f"{STATUS}.startsWith('Step 1') && {shown}.length")
    assert page.evaluate(shown) == ["Fork"]
    page.keyboard.press("Escape")
    api.queue(lambda q, _, __: q.finish(claim.id, 1, 3, state="canceled", event="canceled", data={}))
    until(page, f"{STATUS} === 'Cancelled.'")
    assert page.evaluate(shown) == []
    assert page.evaluate(why) is None
    assert page.is_visible("#pictures")


def test_the_page_estimates_when_a_job_ends(page: Page, api: Api) -> None:
    choose(page, n="1")
    draw(page)
    claim, step = api.claim(), 1
    begin(api, claim, steps=256)
    while not page.evaluate(f"/^Step .* of 256, (about [0-9]+ (s|min)|less than a second) left.$/.test({STATUS})"):
        step += 1
        assert step < 256
        token = {"image_index": 0, "step": step, "steps": 256, "positions": [1], "tokens": [1]}
        api.publish(claim, 1 + step, "tokens", token | {"n_done": 2, "n_total": 16})
        until(page, f"{STATUS}.startsWith('Step {step} of 256')")


def test_a_reload_finds_the_job_under_way_and_the_history(page: Page, api: Api) -> None:
    choose(page, n="2", seed="5", **{"class": "tree"})
    draw(page)
    api.draw(api.claim())
    until(page, DRAWN)
    choose(page, n="1", **{"class": "house"})
    draw(page)
    claim = api.claim()
    begin(api, claim)
    page.reload()
    until(page, f"{STATUS}.startsWith('Step 1 of 8')")
    assert page.evaluate("document.getElementById('job-title').textContent") == "house"
    names = "[...document.querySelectorAll('.job .name')].slice(0, 2).map(n => n.textContent)"
    assert page.evaluate(names) == ["house", "tree"]
    until(page, "document.querySelector('#jobs li:nth-child(2) img')?.naturalWidth === 32")
    page.click("#jobs li:nth-child(2) button")
    until(page, f"{DRAWN} && document.querySelectorAll('#pictures img.there').length === 2")
    until(page, "document.querySelector('.timeline input').max === '2'")  # its steps are there too
    api.finish(claim, 3, [*spec_of(claim).seeds])


def test_a_picture_is_enlarged_zoomed_and_moved(page: Page, api: Api, problems: list[str]) -> None:
    choose(page, n="2", seed="5", **{"class": "tree"})
    draw(page)
    api.draw(api.claim())
    until(page, f"{DRAWN} && document.querySelectorAll('#pictures img.there').length === 2")
    shown = "[...document.querySelectorAll('#pictures figure')].map(f => f.checkVisibility())"
    box = page.locator("#pictures figure:nth-child(2) .canvas")
    small = box.bounding_box()

    def scale() -> tuple[float, float, float]:
        """How much the picture is zoomed, and how far it is moved."""
        layer = "new DOMMatrix(getComputedStyle(document.querySelector('figure:nth-child(2) .layer')).transform)"
        found = page.evaluate(f"(m => [m.a, m.e, m.f])({layer})")
        return found[0], found[1], found[2]

    assert scale() == (1, 0, 0)
    assert not page.is_visible("#closer")
    page.hover("#pictures figure:nth-child(2)")
    page.click("[aria-label='Enlarge picture 2']")
    assert page.evaluate(shown) == [False, True]
    large = box.bounding_box()
    assert large is not None
    assert small is not None
    assert large["width"] > 1.4 * small["width"]
    assert large["width"] > 400, "an edited picture is looked at, not a thumbnail"

    page.click("#closer")
    assert scale() == pytest.approx((1.5, -large["width"] / 4, -large["height"] / 4), abs=1), "around the middle"
    page.click("#further")
    assert scale() == (1, 0, 0)
    # By the wheel around the pointer: what is under it stays there.
    x, y = 0.25 * large["width"], 0.75 * large["height"]
    page.mouse.move(large["x"] + x, large["y"] + y)
    page.mouse.wheel(0, -300)
    until(page, "document.querySelector('figure:nth-child(2) .layer').style.transform !== ''")
    zoomed, left, top = scale()
    assert zoomed == pytest.approx(np.e, rel=0.01)
    assert ((x - left) / zoomed, (y - top) / zoomed) == pytest.approx((x, y), abs=1)
    page.mouse.down()
    page.mouse.move(large["x"] + x + 30, large["y"] + y - 20)
    page.mouse.up()
    assert scale() == pytest.approx((zoomed, left + 30, top - 20), abs=1)
    page.mouse.down()
    page.mouse.move(large["x"] + large["width"] * 3, large["y"] + y, steps=5)
    page.mouse.up()
    assert scale()[1] == 0, "the picture covers its box"

    page.click("#fit")
    assert (page.evaluate(shown), scale()) == ([True, True], (1, 0, 0))
    page.click("[aria-label='Enlarge picture 2']")
    page.keyboard.press("Escape")
    assert page.evaluate(shown) == [True, True]
    assert problems == []


def test_a_link_draws_the_same_picture_again(page: Page, api: Api) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    choose(page, n="2", seed="9223372036854775807", steps="6", temperature="0.5", **{"class": "cone"})
    draw(page)
    first = api.claim()
    api.draw(first)
    until(page, DRAWN)
    act(page, "Copy a link")
    until(page, f"{TOASTS}.length")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{api.url}/#task=generate&")
    page.goto("about:blank")
    page.goto(link)
    until(page, f"{JOBS}[0] === 'queued'")
    again = api.claim()
    asked, before = spec_of(again), spec_of(first)
    assert (asked.task, asked.condition, asked.sampling) == (before.task, before.condition, before.sampling)
    assert asked.seeds == before.seeds[:1]
    assert page.evaluate("location.hash") == "", "to reload the page does not draw again"
    assert page.evaluate("document.getElementById('temperature').value") == "0.5"
    api.finish(again, 1, [*spec_of(again).seeds])
    until(page, f"{SHOWN} === 'cone, seed 9223372036854775807'")


def test_the_examples_send_the_request_that_the_page_sends(page: Page, api: Api, tmp_path: Path) -> None:
    choose(page, n="1", seed="77", steps="4", **{"class": "house"})
    page.click("#examples summary")
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    draw(page)
    specs = [spec_of(api.claim())]
    asked = json.loads(sent[0].post_data or "")

    def command(language: str) -> list[str]:
        page.select_option("#language", language)
        code = {"curl": "curl -f", "Python": "import httpx", "JavaScript": "const body"}[language]
        until(page, f"{EXAMPLE}.startsWith('{code}')")
        text = page.evaluate(EXAMPLE)
        if language == "curl":
            assert json.loads(re.findall(r"-d '(.*?)'", text)[0]) == asked
            return ["sh", "-c", text]
        (tmp_path / "example.mjs").write_text(text)
        return ["node", "example.mjs"] if language == "JavaScript" else [sys.executable, "-c", text]

    def drawn(language: str) -> None:
        process = subprocess.Popen(command(language), cwd=tmp_path, stderr=subprocess.PIPE)
        claim = None
        while claim is None and process.poll() is None:
            claims = api.queue(lambda q, _, __: q.claim("hand", "hand-1", budget=10**6, limit=1, alone=True))
            claim = claims[0] if claims else None
        assert claim is not None, process.stderr and process.stderr.read()
        specs.append(spec_of(claim))
        api.draw(claim)
        assert process.wait(60) == 0, process.stderr and process.stderr.read()

    for language in ("curl", "Python", "JavaScript"):
        drawn(language)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert len({(spec.seeds, spec.sampling, spec.condition) for spec in specs}) == 1
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-example")
    until(page, f"{TOASTS}.includes('Copied.')")
    assert page.evaluate("navigator.clipboard.readText()") == page.evaluate(EXAMPLE)


def test_the_live_panel_tells_what_the_service_does(page: Page, api: Api) -> None:
    busy = {"pictures": 2, "tokens_per_second": 1234.4, "kv_pages": 8, "kv_pages_used": 2}

    async def report(_: Queue, cards: WorkerCards, __: BlobStore) -> None:
        await cards.put_load("hand-1", {"hand": busy})

    api.generate()
    api.generate()
    api.claim()

    def reported() -> bool:
        api.queue(report)
        text = page.evaluate(
            "['load-rate', 'load-jobs', 'load-pages'].map(id => document.getElementById(id).textContent)"
        )
        return bool(text == ["1,234", "1 + 1", "25 %"])

    while not reported():
        page.wait_for_timeout(100)
