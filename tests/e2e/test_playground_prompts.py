"""The page takes prompts where the chosen model does, and shows what was done otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page

from service.jobs.result import JobWarning
from service.jobs.spec import NoCondition, TextCondition
from service.settings import Settings
from tests.support.api import CARD, running_api, spec_of
from tests.support.playground import DRAWN, STATUS, choose, chromium, open_page, submit, task, until

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")

TEXT = replace(CARD, name="a-text", conditioning="text", condition_rows=120, classes=())
SHORT = "a purple mug"
CUT = JobWarning(field="prompt", code="truncated", message="the prompt is too long; the model did not read its end")

SHOWN = """[...document.querySelectorAll('#form .field')].filter(f => f.checkVisibility())
  .map(f => f.innerText.split('\\n')[0])"""
CURL = "document.getElementById('curl').textContent"
WARNINGS = "document.getElementById('warnings')"
WRONG = "document.querySelector('.field:has(#negative_prompt) .wrong')"


def test_a_prompt_takes_the_place_of_the_class(tab: Page, redis_socket: Path, problems: list[str]) -> None:
    with running_api(Settings(redis_url=f"unix://{redis_socket}", namespace="prompted", _env_file=None)) as api:
        api.show_card(CARD, TEXT)
        open_page(tab, api.url)
        settings = ["Steps", "Guidance", "Negative prompt", "Seed", "Pictures"]
        assert tab.evaluate(SHOWN) == ["Model", "Prompt", *settings]
        assert '"prompt":null' in tab.evaluate(CURL)
        assert "guidance" not in tab.evaluate(CURL), "nothing says what to draw, so there is nothing to guide"

        # An error stands beside its field.
        choose(tab, n="1", negative_prompt="fog")
        submit(tab)
        until(tab, WRONG)
        assert "give a prompt too" in tab.evaluate(f"{WRONG}.textContent")

        choose(tab, prompt=f" {SHORT} ")
        assert f'"prompt":"{SHORT}"' in tab.evaluate(CURL)
        assert '"guidance_scale":3' in tab.evaluate(CURL)
        submit(tab)
        until(tab, f"{STATUS}.startsWith('Waiting')")
        claim = api.claim("a-text")
        assert spec_of(claim).condition == TextCondition(prompt=SHORT, negative_prompt="fog")
        api.finish(claim, 1, [7], warnings=[CUT])
        until(tab, DRAWN)
        assert tab.evaluate(f"{WARNINGS}.textContent") == f"T{CUT.message[1:]}."
        assert tab.evaluate(f"{WARNINGS}.checkVisibility()")
        assert tab.evaluate("document.querySelector('figure img').alt") == f"{SHORT}, seed 7"
        assert tab.evaluate("document.querySelector('figcaption a').download") == "a-text-a_purple_mug-7.png"

        # The next picture has no warning; without a prompt it shows anything.
        choose(tab, prompt="", negative_prompt="")
        submit(tab)
        until(tab, f"{STATUS}.startsWith('Waiting')")
        assert tab.evaluate(f"{WARNINGS}.hidden")
        claim = api.claim("a-text")
        assert spec_of(claim).condition == NoCondition()
        api.finish(claim, 1, [8])
        until(tab, DRAWN)
        assert tab.evaluate(f"{WARNINGS}.hidden")

        # Every task but a fork, which draws what its parent shows.
        for name in ("inpaint", "outpaint", "vary", "expand", "fork"):
            task(tab, name)
            assert ("Prompt" in tab.evaluate(SHOWN)) == (name != "fork")
        task(tab, "generate")

        choose(tab, models="hand")
        tab.evaluate("document.getElementById('models').dispatchEvent(new Event('change'))")
        until(tab, "document.getElementById('model').textContent.startsWith('hand:')")
        assert tab.evaluate(SHOWN) == ["Model", "Class", "Steps", "Guidance", "Seed", "Pictures"]
        assert "prompt" not in tab.evaluate(CURL)
        assert ["422" in problem for problem in problems] == [True], "of the request without a prompt"
