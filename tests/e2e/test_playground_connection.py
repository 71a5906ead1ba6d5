"""The page and its connection: seven pages at once, streams that end early, a server that goes away."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from service.settings import Settings
from tests.support.api import Api, running_api, spec_of
from tests.support.playground import (
    DRAWN,
    JOBS,
    READY,
    STATUS,
    TOASTS,
    begin,
    choose,
    chromium,
    draw,
    lose_the_stream,
    open_page,
    tab_of,
    until,
)

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")

PAGES = 7


@pytest.fixture
def api(own_api: Api) -> Api:
    return own_api


@pytest.fixture
def page(own_page: Page) -> Page:
    return own_page


def test_seven_pages_with_running_jobs_all_load_and_follow_them(
    browser: Browser, api: Api, problems: list[str]
) -> None:
    """A browser opens six connections to a server, over all its pages."""
    with tab_of(browser, problems) as first:
        pages = [first, *(first.context.new_page() for _ in range(PAGES - 1))]
        claims = []
        for page in pages:
            open_page(page, api.url)
            choose(page, n="1", **{"class": "cube"})
            draw(page)
            claims.append(api.claim())
            begin(api, claims[-1])
        for page in pages:
            until(page, f"{STATUS}.startsWith('Step 1 of 8')")
        # The eighth is another client in the same browser; a page's load is still answered.
        assert first.evaluate("fetch('v1/models').then(r => r.status)") == 200
        for page, claim in zip(pages, claims, strict=True):
            api.finish(claim, 3, [*spec_of(claim).seeds])
            until(page, DRAWN)
    assert problems == []


def test_without_a_shared_worker_the_pages_take_turns(browser: Browser, api: Api, problems: list[str]) -> None:
    with tab_of(browser, problems) as first:
        first.context.add_init_script("delete window.SharedWorker")
        pages = [first, *(first.context.new_page() for _ in range(PAGES - 1))]
        job = api.generate(n=1)
        claim = api.claim()
        begin(api, claim)
        for page in pages:
            open_page(page, api.url)
            until(page, f"{STATUS}.startsWith('Step 1 of 8')")
        api.finish(claim, 3, [*spec_of(claim).seeds])
        for page in pages:
            until(page, DRAWN)
        assert job["id"] == claim.id


def test_the_page_says_when_the_server_is_away_and_never_that_a_half_is_done(page: Page, api: Api) -> None:
    """Its connections are cut, pictures too, and come back."""
    choose(page, n="4", **{"class": "table"})
    draw(page)
    claim = api.claim()
    api.draw(claim)
    until(page, DRAWN)
    page.route("**/images/[1-3]", lambda route: route.abort())
    page.reload()
    until(page, f"{STATUS} === 'Loading the pictures: 1 of 4…'")
    page.unroute("**/images/[1-3]")
    until(page, f"{DRAWN} && document.querySelectorAll('#pictures img.there').length === 4")
    page.route("**/v1/generate", lambda route: route.abort())
    page.click("#draw")
    until(page, f"{TOASTS}.length")
    assert page.evaluate(TOASTS) == [
        "The server does not answer. Check that it runs and that you are online, then try again."
    ]
    assert page.evaluate(READY)
    page.unroute("**/v1/generate")
    draw(page)
    assert page.evaluate(TOASTS) == [], "the error is over"


def test_the_page_says_that_the_server_stopped_and_what_to_do(tab: Page, redis_socket: Path) -> None:
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="page-away", _env_file=None)
    with running_api(settings) as api:
        api.show_card()
        open_page(tab, api.url)
        choose(tab, n="4", **{"class": "tree"})
        draw(tab)
        claim = api.claim()
        begin(api, claim)
        until(tab, f"{STATUS}.startsWith('Step 1 of 8')")
    until(tab, f"{STATUS} === 'The server does not answer. Trying again…'")
    said = tab.evaluate(TOASTS)
    assert len(said) == 1
    assert said[0].startswith("The server does not answer. Check that it runs and that you are online.")
    assert tab.evaluate("document.getElementById('draw').disabled") is False


def forget(api: Api, *keys: str) -> None:
    names = [api.settings.queue_config.prefix + key for key in keys]
    assert api.queue(lambda q, _, __: q.redis.delete(*names)) == len(keys)


def test_a_stream_that_is_refused_for_good_still_ends_with_the_picture(page: Page, api: Api) -> None:
    choose(page, n="1", seed="7")
    draw(page)
    until(page, f"{STATUS}.startsWith('Waiting')")
    claim = api.claim()
    api.finish(claim, 1, [*spec_of(claim).seeds])
    forget(api, f"events:{claim.id}")
    lose_the_stream(page, api)
    until(page, "document.querySelector('figure img.there')")
    assert page.evaluate(STATUS) in ("Done.", "Done in 0.2 s.")


def test_a_job_that_is_gone_is_an_error_and_the_page_can_draw_again(page: Page, api: Api) -> None:
    draw(page)
    until(page, f"{STATUS}.startsWith('Waiting')")
    claim = api.claim()
    forget(api, f"job:{claim.id}", f"events:{claim.id}")
    lose_the_stream(page, api)
    said = "The server does not know this job: it has expired, or another key made it."
    until(page, f"{TOASTS}.length")
    assert page.evaluate(TOASTS) == [said]
    assert page.evaluate(STATUS) == "Failed."
    assert page.evaluate("document.getElementById('why-nothing').textContent") == said
    assert page.evaluate(f"{JOBS}[0]") == "failed"
    assert page.evaluate("document.getElementById('cancel').hidden") is True
