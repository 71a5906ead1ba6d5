"""The page draws: classes to choose, tokens that fill in as they come, the finished picture, cancel, errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.card import ClassLabel, Defaults
from service.server.app import create_app
from service.settings import Settings
from tests.support.api import CARD, Api, running_api, spec_of
from tests.support.playground import (
    DRAWN,
    READY,
    STATUS,
    TOASTS,
    choose,
    chromium,
    draw,
    open_page,
    submit,
    switch_to,
    until,
)

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")

# How many pixels of the first picture's canvas are painted, and its first pixel.
PAINTED = """(() => { const c = document.querySelector('#pictures canvas');
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] === 255;
  return [n, d[0], d[1], d[2], c.width, c.height]; })()"""


@pytest.fixture
def page(tab: Page, api: Api) -> Page:
    open_page(tab, api.url)
    return tab


def test_tokens_fill_in_and_give_way_to_the_picture(page: Page, api: Api, problems: list[str]) -> None:
    assert page.evaluate("document.getElementById('models').closest('.field').hidden")
    choose(page, n="1", seed="009223372036854775807", **{"class": "cube"})
    draw(page)
    until(page, f"{STATUS}.startsWith('Waiting')")
    assert page.evaluate(READY), "further pictures can be drawn meanwhile"
    claim = api.claim()
    assert (spec_of(claim).class_label, spec_of(claim).seeds[0]) == (1, 2**63 - 1)

    started = {"attempt": 1, "images": 1, "grid": [4, 4], "steps": 2, "known": 0}
    api.publish(claim, 1, "started", started)
    half = {"image_index": 0, "step": 1, "steps": 2, "positions": [0, 5], "tokens": [2, 3], "n_done": 2, "n_total": 16}
    api.publish(claim, 2, "tokens", half)
    until(page, f"{STATUS}.startsWith('Step 1 of 2')")
    # Two cells of 4×4 pixels each; the first shows code 2 of the palette, whose bytes run from 96.
    assert page.evaluate(PAINTED) == [32, 96, 97, 98, 16, 16]

    api.finish(claim, 3, [*spec_of(claim).seeds])
    until(page, DRAWN)
    assert page.evaluate("document.querySelector('figure img.there, figure img').naturalWidth") == 32
    assert page.evaluate("document.querySelector('figcaption .seed').textContent") == "seed 9223372036854775807"
    assert page.evaluate(STATUS) == "Done in 0.2 s."
    assert problems == []


def test_a_new_attempt_starts_from_an_empty_canvas(page: Page, api: Api) -> None:
    choose(page, n="1")
    draw(page)
    until(page, f"{STATUS}.startsWith('Waiting')")
    claim = api.claim()
    token = {"image_index": 0, "step": 1, "steps": 4, "positions": [0], "tokens": [1], "n_done": 1, "n_total": 16}
    started = {"attempt": 1, "images": 1, "grid": [4, 4], "steps": 4, "known": 0}
    api.publish(claim, 1, "started", started)
    api.publish(claim, 2, "tokens", token)
    until(page, f"{PAINTED}[0] === 16")
    api.queue(lambda q, _, __: q.release(claim.id, claim.attempt))
    again = api.claim()
    api.publish(again, 1, "started", started | {"attempt": again.attempt})
    until(page, f"{PAINTED}[0] === 0")
    api.finish(again, 2, [*spec_of(again).seeds])
    until(page, f"{STATUS}.startsWith('Done')")


def test_with_several_models_class_and_controls_follow_the_one_chosen(
    tab: Page, redis_socket: Path, problems: list[str]
) -> None:
    fixed = ("guidance_scale", "guidance_interval", "temperature", "top_k", "top_p")
    raster = replace(
        CARD, name="raster", family="llamagen", grid=(2, 4), tasks=("generate",), settings=fixed, steps=8,
        classes=CARD.classes[1:4], defaults=Defaults(guidance_scale=1.75),
    )  # fmt: skip
    kinds = tuple(ClassLabel(i, f"kind {i}", (f"sort {i}",), f"n{i:08}") for i in range(998))
    kinds += (ClassLabel(998, "twin"), ClassLabel(999, "Twin"))
    many = replace(raster, name="many", classes=kinds, tasks=("generate", "vary"))
    visible = (
        "[...document.querySelectorAll('{}')].filter(f => f.checkVisibility()).map(f => f.innerText.split('\\n')[0])"
    )
    shown, tasks = visible.format("#form .field > label"), visible.format("#tasks label")
    options = "[...document.querySelectorAll('#class-list li')].map(o => o.innerText)"

    with running_api(
        Settings(redis_url=f"unix://{redis_socket}", namespace="playground-several", _env_file=None)
    ) as api:
        api.show_card(replace(CARD, task_defaults={"outpaint": {"steps": 12, "top_p": 0.6}}), raster, many)
        open_page(tab, api.url)
        assert tab.evaluate("[...document.getElementById('models').options].map(o => o.value)") == [
            "hand",
            "many",
            "raster",
        ]
        assert tab.evaluate(shown) == ["Model", "Class", "Steps", "Guidance", "Seed", "Pictures"]
        assert tab.evaluate(tasks) == ["Draw", "Inpaint", "Outpaint", "Vary", "Expand"]
        # All ten settings, with the model's own values as hints.
        tab.click("#more summary")
        more = tab.evaluate(shown)[6:]
        assert more[:8] == [
            "Temperature", "Top k", "Top p", "Schedule", "Guidance schedule", "Guidance until", "Attention", "Order",
        ]  # fmt: skip
        assert tab.evaluate("document.getElementById('top_p').placeholder") == "1"

        # Each task has its own defaults; a number that the user has set stays.
        written = "['steps', 'guidance_scale'].map(name => document.getElementById(name).value)"
        assert tab.evaluate(written) == ["8", "3"]
        tab.check("[name=task][value=outpaint]", force=True)
        assert tab.evaluate("document.getElementById('top_p').placeholder") == "0.6"
        assert tab.evaluate(written) == ["12", "3"]
        tab.fill("#steps", "5")
        tab.check("[name=task][value=generate]", force=True)
        assert tab.evaluate("document.getElementById('top_p').placeholder") == "1"
        assert tab.evaluate(written) == ["5", "3"]

        switch_to(tab, "many")
        assert tab.evaluate(written) == ["", "1.75"]
        tab.click("#class")
        tab.fill("#class", "sort 77")  # a synonym
        assert tab.evaluate(options)[:2] == ["kind 77 sort 77, n00000077", "kind 770 sort 770, n00000770"]
        tab.fill("#class", "n00000123")
        tab.keyboard.press("ArrowDown")
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.getElementById('class').value") == "kind 123"
        tab.fill("#class", "twin")
        assert tab.evaluate(options) == ["twin class 998", "Twin class 999"]
        tab.keyboard.press("ArrowUp")
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.getElementById('class').value") == "999", "the name would be refused"
        assert tab.evaluate("document.getElementById('class-list').hidden")
        assert tab.evaluate(tasks) == ["Draw", "Vary"]

        switch_to(tab, "raster")
        assert tab.evaluate(shown)[:5] == ["Model", "Class", "Guidance", "Seed", "Pictures"]
        assert tab.evaluate(shown)[5:9] == ["Temperature", "Top k", "Top p", "Guidance until"]
        assert tab.evaluate(tasks) == []  # it can only draw
        assert tab.evaluate("document.getElementById('guidance_scale').value") == "1.75"
        choose(tab, n="1", top_k="3", **{"class": "cube"})
        draw(tab)
        until(tab, f"{STATUS}.startsWith('Waiting')")
        claim = api.claim("raster")
        spec = spec_of(claim)
        asked = [spec.class_label, spec.sampling.steps, spec.sampling.guidance_scale, spec.sampling.top_k]
        assert asked == [1, None, 1.75, 3]
        switch_to(tab, "hand")  # while the job of the other model is drawn
        started = {"attempt": 1, "images": 1, "grid": [2, 4], "steps": 8, "known": 0}
        api.publish(claim, 1, "started", started)
        until(tab, "(c => c.width === 16 && c.height === 8)(document.querySelector('#pictures canvas'))")
        api.finish(claim, 2, [*spec_of(claim).seeds])
        until(tab, DRAWN)
        assert tab.evaluate("document.getElementById('class').value") == "cube"  # both have it
        assert problems == []


def test_escape_cancels_the_job_that_is_shown(page: Page, api: Api) -> None:
    draw(page)
    until(page, f"{STATUS}.startsWith('Waiting')")
    page.keyboard.press("Escape")
    until(page, f"{STATUS} === 'Cancelled.'")
    assert api.queue(lambda q, _, __: q.depth("hand")) == 0


def test_the_page_works_under_the_path_that_a_proxy_strips(
    tab: Page, redis_socket: Path, monkeypatch: pytest.MonkeyPatch, problems: list[str]
) -> None:
    def behind_a_proxy(settings: Settings, **more: Any) -> ASGIApp:
        app = create_app(settings, **more)

        async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                if not scope["path"].startswith("/art/"):
                    await PlainTextResponse("the proxy has other things here", 404)(scope, receive, send)
                    return
                # As the server hands on a request that came without the path that it was told of.
                scope = {**scope, "root_path": "/art"}
            await app(scope, receive, send)

        return proxy

    monkeypatch.setattr("tests.support.api.create_app", behind_a_proxy)
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="prefix", _env_file=None)
    with running_api(settings) as api:
        api.client.base_url = f"{api.url}/art"
        api.show_card()
        tab.goto(f"{api.url}/art/?from=elsewhere#top")
        until(tab, READY)
        tab.click("#examples summary")
        until(tab, "document.getElementById('example').textContent")
        assert tab.evaluate("document.getElementById('example').textContent").endswith(f" {api.url}/art/v1/generate")
        choose(tab, n="1")
        draw(tab)
        until(tab, f"{STATUS}.startsWith('Waiting')")
        api.draw(api.claim())
        until(tab, DRAWN)
        assert tab.evaluate("new URL(document.querySelector('figcaption a').href).pathname").startswith("/art/v1/jobs/")
        tab.goto(f"{api.url}/art/docs")
        until(tab, "document.querySelector('#docs details')")
        assert problems == []


def test_an_error_is_said_in_the_page_s_words_at_the_field_that_is_wrong(page: Page) -> None:
    wrong = "document.querySelector('.field:has(#seed) .wrong')"
    for seed in ("tomorrow", "-1"):
        choose(page, seed=seed)
        page.evaluate(f"{wrong}?.remove()")
        submit(page)
        until(page, wrong)
        assert page.evaluate(f"{wrong}.textContent") == (
            "A seed is a whole number from 0 to 9,223,372,036,854,775,807. Leave it empty for a random one."
        )
        assert page.evaluate("document.activeElement.id") == "seed"
    assert page.evaluate("[...document.querySelectorAll('main [aria-invalid=true]')].map(e => e.id)") == ["seed"]
    choose(page, seed="7", n="1", top_p="3")  # a field that is out of sight
    submit(page)
    until(page, "document.querySelector('.field:has(#top_p) .wrong')?.checkVisibility()")
    assert page.evaluate(TOASTS) == []
    choose(page, top_p="")
    draw(page)
    assert page.evaluate("document.querySelectorAll('main :is(.wrong, [aria-invalid=true])').length") == 0


def test_the_api_is_described_without_anything_from_elsewhere(
    tab: Page, api: Api, tmp_path: Path, problems: list[str]
) -> None:
    tab.goto(f"{api.url}/docs")
    until(tab, "document.querySelector('#docs details')")
    text = "document.getElementById('docs').textContent"
    described = api.client.get("/openapi.json").json()
    routes = [f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods]
    assert tab.evaluate("[...document.querySelectorAll('summary code')].map(c => c.textContent)") == routes
    said = tab.evaluate(text)
    for shown in (
        "guidance_scale", "Which part of the mask is drawn again", "integer ≥ 1, ≤ 256", "multipart/form-data",
        '"white" or "black" or "alpha" or "nonzero" ("white")', "text/event-stream", "Idempotency-Key".lower(),
    ):  # fmt: skip
        assert shown in said, shown
    # Every object that is named is described.
    assert (
        tab.evaluate("[...document.querySelectorAll('#docs a')].filter(a => !document.querySelector(a.hash)).length")
        == 0
    )
    assert "ProblemDocument" in tab.evaluate("[...document.querySelectorAll('#docs a')].map(a => a.textContent)")
    assert "[object" not in said
    assert "undefined" not in said
    loaded = tab.evaluate("performance.getEntriesByType('resource').map(r => new URL(r.name).origin)")
    assert set(loaded) == {api.url}
    assert problems == []
    tab.evaluate("document.querySelectorAll('details')[1].open = true")
    tab.screenshot(path=tmp_path / "docs.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_readable_in_both_schemes(tab: Page, api: Api, dark: bool, tmp_path: Path, problems: list[str]) -> None:
    tab.emulate_media(color_scheme="dark" if dark else "light")
    tab.goto(api.url)
    until(tab, READY)
    luminance = """((css) => { const [r, g, b] = css.match(/\\d+/g).map(x => (x / 255) ** 2.2);
      return .2126 * r + .7152 * g + .0722 * b; })"""
    ink, ground, quiet = (
        tab.evaluate(f"{luminance}({what})")
        for what in (
            "getComputedStyle(document.body).color",
            "getComputedStyle(document.body).backgroundColor",
            "getComputedStyle(document.getElementById('model')).color",
        )
    )
    for text in (ink, quiet):
        # WCAG 2.2, 1.4.3: at least 4.5 to 1.
        assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) >= 4.5
    assert (ground < 0.1) is dark
    tab.screenshot(path=tmp_path / "page.png")
    assert problems == []
