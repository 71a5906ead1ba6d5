"""The page takes prompts where the chosen model does, and shows what was done otherwise."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from service.jobs.result import JobWarning
from service.jobs.spec import NoCondition, TextCondition
from service.settings import Settings
from tests.support.api import CARD, running_api, spec_of
from tests.support.playground import DRAWN, STATUS, choose, chromium, drag, open_page, submit, task, until
from tests.support.serve import serving
from tests.support.tiny import random_folder
from tests.support.waiting import eventually

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


def test_every_task_is_drawn_by_prompt_on_the_page(
    tab: Page, tmp_path_factory: pytest.TempPathFactory, problems: list[str]
) -> None:
    """By a real worker of an ARPG that takes text; a word that it does not know is named each time."""
    folder = random_folder(
        tmp_path_factory.mktemp("model"), family="arpg-t2i", name="words", grid=(8, 8), text_encoder=True
    )
    with serving(tmp_path_factory.mktemp("var"), folder) as server:
        open_page(tab, str(server.client.base_url))
        choose(tab, n="1", seed="7", steps="3", prompt="a red naïve cube")
        submit(tab)
        until(tab, DRAWN)
        tab.evaluate("document.querySelector('figcaption button').click()")
        until(tab, "!document.getElementById('mask').hidden && document.getElementById('mask').width === 16")

        def jobs() -> list[dict[str, Any]]:
            listed: list[dict[str, Any]] = server.client.get("/v1/jobs").json()["jobs"]
            return listed

        for count, name in enumerate(("inpaint", "outpaint", "vary", "expand", "fork"), start=len(jobs()) + 1):
            task(tab, name)
            if name != "fork":
                assert "Prompt" in tab.evaluate(SHOWN)
                choose(tab, prompt=f"a blue naïve ball {name}")
            if name == "inpaint":
                drag(tab, "#mask", (0.2, 0.2), (0.8, 0.8))
            if name == "outpaint":
                choose(tab, left="0", right="8")
            submit(tab)
            assert eventually(partial(lambda wanted: len(jobs()) == wanted, count))
            job = jobs()[0]  # the newest
            until(tab, f"{DRAWN} && document.querySelector('figcaption a').pathname.includes('{job['id']}')")
            told = "a red naïve cube" if name == "fork" else f"a blue naïve ball {name}"
            assert (job["task"], job["prompt"]) == ("generate" if name == "fork" else name, told)
            assert "“naïve”" in tab.evaluate(f"{WARNINGS}.textContent")
    assert problems == []
