"""The page takes prompts where the chosen model does, and shows what was done otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playwright.sync_api import Page

from service.jobs.result import JobWarning
from service.jobs.spec import NoCondition, TextCondition
from tests.support.api import CARD, Api, spec_of
from tests.support.playground import (
    DRAWN,
    STATUS,
    act,
    choose,
    chromium,
    drag,
    draw,
    findings,
    open_page,
    submit,
    switch_to,
    task,
    until,
)
from tests.support.serve import serving
from tests.support.tiny import random_folder

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")

TEXT = replace(CARD, name="a-text", conditioning="text", condition_rows=120, classes=())
SHORT = "a purple mug"
CUT = JobWarning(field="prompt", code="truncated", message="the prompt is too long; the model did not read its end")

SHOWN = """[...document.querySelectorAll('#form .field > label')].filter(f => f.checkVisibility())
  .map(f => f.innerText)"""
CURL = "document.getElementById('example').textContent"
WARNINGS = "document.getElementById('warnings')"
WRONG = "document.querySelector('.field:has(#negative_prompt) .wrong')"


def test_a_prompt_takes_the_place_of_the_class(tab: Page, own_api: Api, problems: list[str]) -> None:
    own_api.show_card(CARD, TEXT)
    open_page(tab, own_api.url)
    assert not tab.is_visible("#another-example")
    assert tab.get_attribute("#prompt", "placeholder") == "What to draw, in words"
    settings = ["Steps", "Guidance", "Seed", "Pictures"]
    assert tab.evaluate(SHOWN) == ["Model", "Prompt", "Negative prompt", *settings]
    tab.click("#examples summary")
    until(tab, CURL)
    assert '"prompt":null' in tab.evaluate(CURL)
    assert "guidance" not in tab.evaluate(CURL), "nothing says what to draw, so there is nothing to guide"

    # An error stands beside its field.
    choose(tab, n="1", negative_prompt="fog")
    submit(tab)
    until(tab, WRONG)
    assert "Write a prompt, or leave this empty." in tab.evaluate(f"{WRONG}.textContent")

    choose(tab, prompt=f" {SHORT} ")
    until(tab, f'{CURL}.includes(\'"prompt":"{SHORT}"\')')
    assert '"guidance_scale":3' in tab.evaluate(CURL)
    draw(tab)
    until(tab, f"{STATUS}.startsWith('Waiting')")
    claim = own_api.claim("a-text")
    assert spec_of(claim).condition == TextCondition(prompt=SHORT, negative_prompt="fog")
    own_api.finish(claim, 1, [7], warnings=[CUT])
    until(tab, DRAWN)
    assert tab.evaluate(f"{WARNINGS}.textContent") == f"T{CUT.message[1:]}."
    assert tab.evaluate(f"{WARNINGS}.checkVisibility()")
    assert tab.evaluate("document.querySelector('figure img').alt") == f"{SHORT}, seed 7"
    assert tab.evaluate("document.querySelector('figcaption a').download") == "a-text-a_purple_mug-7.png"

    # The next picture has no warning; without a prompt it shows anything.
    choose(tab, prompt="", negative_prompt="")
    draw(tab)
    until(tab, f"{STATUS}.startsWith('Waiting')")
    assert tab.evaluate(f"{WARNINGS}.hidden")
    claim = own_api.claim("a-text")
    assert spec_of(claim).condition == NoCondition()
    own_api.finish(claim, 1, [8])
    until(tab, DRAWN)
    assert tab.evaluate(f"{WARNINGS}.hidden")

    for name in ("inpaint", "outpaint", "vary", "expand"):
        task(tab, name)
        assert "Prompt" in tab.evaluate(SHOWN)
    task(tab, "generate")

    switch_to(tab, "hand")
    assert tab.evaluate(SHOWN) == ["Model", "Class", "Steps", "Guidance", "Seed", "Pictures"]
    until(tab, f"!{CURL}.includes('prompt')")
    assert ["422" in problem for problem in problems] == [True], "of the request without a prompt"


def test_the_page_offers_the_example_prompts_of_the_model(tab: Page, own_api: Api, problems: list[str]) -> None:
    own_api.show_card(CARD, TEXT, replace(TEXT, name="examples", example_prompts=("a red cube", "a green tree")))
    open_page(tab, own_api.url)
    switch_to(tab, "examples")
    assert tab.get_attribute("#prompt", "placeholder") == "a red cube"
    tab.click("#examples summary")
    for prompt in ("a red cube", "a green tree", "a red cube"):
        tab.click("[aria-label='Another example prompt']")
        assert tab.input_value("#prompt") == prompt
        until(tab, f'{CURL}.includes(\'"prompt":"{prompt}"\')')
    assert findings(tab) == []
    switch_to(tab, "hand")
    assert not tab.is_visible("#another-example")
    assert problems == []


def test_every_task_is_drawn_by_prompt_on_the_page(
    tab: Page, tmp_path_factory: pytest.TempPathFactory, problems: list[str]
) -> None:
    """By a real worker of an ARPG that takes text; a word that it does not know is named each time."""
    folder = random_folder(
        tmp_path_factory.mktemp("model"), family="arpg-t2i", name="words", grid=(8, 8), text_encoder=True
    )
    with serving(tmp_path_factory.mktemp("var"), folder) as server:

        def drawn(task: str, prompt: str) -> None:
            until(tab, DRAWN)
            job = server.client.get("/v1/jobs").json()["jobs"][0]  # the newest
            assert tab.evaluate("document.querySelector('figcaption a').pathname").startswith(job["urls"]["self"])
            assert (job["task"], job["prompt"]) == (task, prompt)
            assert "“naïve”" in tab.evaluate(f"{WARNINGS}.textContent")

        open_page(tab, str(server.client.base_url))
        choose(tab, n="1", seed="7", steps="64", prompt="a red naïve cube")  # so many that several events tell them
        draw(tab)
        drawn("generate", "a red naïve cube")
        act(tab, "Edit")
        until(tab, "!document.getElementById('mask').hidden && document.getElementById('mask').width === 16")
        until(tab, "document.activeElement.id === 'base'")  # Edit takes the focus there at its end
        tab.locator(".timeline input").focus()
        tab.keyboard.press("ArrowLeft")
        until(tab, "document.querySelector('.timeline output').value !== 'step 64'")
        act(tab, "Fork")
        until(tab, "document.getElementById('job-details').textContent.startsWith('Fork')")
        drawn("generate", "a red naïve cube")
        for name in ("inpaint", "outpaint", "vary", "expand"):
            task(tab, name)
            assert "Prompt" in tab.evaluate(SHOWN)
            choose(tab, prompt=f"a blue naïve ball {name}")
            if name == "inpaint":
                drag(tab, "#mask", (0.2, 0.2), (0.8, 0.8))
            if name == "outpaint":
                choose(tab, left="0", right="8")
            draw(tab)
            drawn(name, f"a blue naïve ball {name}")
    assert [problem for problem in problems if "willReadFrequently" not in problem] == []
