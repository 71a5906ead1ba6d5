"""The page for everybody: what is said aloud, what stays in sight, names, sizes, and what axe finds."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

from tests.support.api import Api, spec_of
from tests.support.playground import (
    DRAWN,
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


@pytest.fixture
def api(own_api: Api) -> Api:
    return own_api


@pytest.fixture
def page(own_page: Page) -> Page:
    return own_page


def test_a_draw_is_announced_a_few_times_and_is_done_once_all_pictures_are_there(page: Page, api: Api) -> None:
    page.evaluate("""(() => { window.said = []; new MutationObserver(changes => changes.forEach(({target}) => {
      const live = (target.parentElement ?? target).closest('[aria-live], [role=status], [role=alert]')
        ?? target.closest?.('[aria-live], [role=status], [role=alert]');
      if (live) said.push(live.textContent);
    })).observe(document.body, {childList: true, characterData: true, subtree: true}); })()""")
    held: list[Any] = []
    page.route("**/images/1", lambda route: held.append(route))  # the second picture takes long
    choose(page, n="2", **{"class": "sphere"})
    draw(page)
    claim = api.claim()
    api.draw(claim, steps=16)
    until(page, f"{STATUS} === 'Loading the pictures: 1 of 2…'")
    assert not page.evaluate(DRAWN)
    held[0].continue_()
    until(page, DRAWN)
    said = page.evaluate("said")
    assert said[0] == "sphere: sent."
    assert said[-1] == "sphere: Done in 0.2 s."
    assert len(said) <= 8
    # Each link and button has a name of its own, and room for a finger.
    names = page.evaluate(
        "[...document.querySelectorAll('figure :is(a, button)')].map(e => e.ariaLabel || e.textContent)"
    )
    assert len(set(names)) == len(names)
    small = """[...document.querySelectorAll('a, button, summary, input:not([type=file], [type=radio]), select')]
      .filter(e => e.checkVisibility() && e.offsetParent !== null && !e.matches('.unseen'))
      .filter(e => e.getBoundingClientRect().height < 24 && !['range', 'checkbox'].includes(e.type))
      .map(e => e.outerHTML)"""
    assert page.evaluate(small) == []


def test_the_state_stays_in_sight(page: Page, api: Api) -> None:
    page.set_viewport_size({"width": 390, "height": 700})
    choose(page, n="16")
    draw(page)
    api.draw(api.claim())
    until(page, DRAWN)
    page.locator("figure").last.scroll_into_view_if_needed()
    top = page.evaluate("document.getElementById('status').getBoundingClientRect().top")
    assert 0 <= top < 200
    # Where it meets the bar with the button that draws, the button is in front.
    page.evaluate("scrollBy(0, document.getElementById('viewer').getBoundingClientRect().top - innerHeight + 90)")
    middle = """(b => document.elementFromPoint(b.left + b.width / 2, b.top + b.height / 2).id)(
      document.getElementById('draw').getBoundingClientRect())"""
    assert page.evaluate(middle) == "draw"
    # An enlarged picture has more buttons, and the title has its room.
    page.evaluate("document.querySelector('.enlarge').click()")
    assert page.evaluate("document.getElementById('job-title').clientWidth") > 300


def test_the_words_under_a_picture_fit_beside_the_editor(page: Page, api: Api) -> None:
    choose(page, n="1", **{"class": "cube"})
    draw(page)
    api.draw(api.claim())
    until(page, DRAWN)
    act(page, "Edit")
    until(page, "document.getElementById('mask').checkVisibility()")
    page.focus("#mask")
    page.keyboard.press("Space")
    seed = 2**63 - 5
    choose(page, n="4", seed=str(seed))
    draw(page)
    api.draw(api.claim())
    until(page, DRAWN)
    page.set_viewport_size({"width": 390, "height": 844})
    rows = "new Set([...document.querySelectorAll('#tools button')].map(b => b.getBoundingClientRect().top)).size"
    assert page.evaluate(rows) == 2, "no tool stands alone"
    outside = """[...document.querySelectorAll('figure :is(.act, .seed)')].filter(e => {
      const [own, room] = [e.getBoundingClientRect(), e.closest('figure').getBoundingClientRect()];
      return own.left < room.left - 1 || own.right > room.right + 1 || e.scrollWidth > e.clientWidth + 1;
    }).map(e => e.textContent)"""
    for width, height in ((390, 844), (1440, 900), (1920, 1080)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate(outside) == [], width
        acts = page.locator("figure").first.locator(".acts > :visible")
        assert acts.all_text_contents() == ["Before", "Fork", "Edit", "PNG"]
        assert page.locator(".seed").first.text_content() == f"seed {seed}"


def test_axe_finds_nothing_in_the_page_while_it_draws_edits_and_asks(page: Page, api: Api) -> None:
    choose(page, n="2", **{"class": "cube"})
    draw(page)
    claim = api.claim()
    begin(api, claim)
    until(page, f"{STATUS}.startsWith('Step 1')")
    page.click("#more summary")
    page.click("#examples summary")
    page.click("#class")
    assert findings(page) == []
    page.keyboard.press("Escape")
    api.finish(claim, 3, [*spec_of(claim).seeds])
    until(page, DRAWN)
    act(page, "Edit")
    until(page, "document.getElementById('mask').checkVisibility()")
    act(page, "Fork")
    until(page, f"{TOASTS}.length")
    assert page.evaluate(TOASTS) == [
        "Move the slider under the picture to the step from which to fork, then press Fork."
    ]
    page.emulate_media(color_scheme="dark")
    assert findings(page) == []
    page.evaluate("document.querySelector('[name=task][value=outpaint]').click()")
    assert findings(page) == []
