"""Where a key is needed, the page asks for it, and goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from service.auth import key_store, keys
from service.settings import Settings
from tests.support.api import Api, running_api, spec_of
from tests.support.playground import DRAWN, READY, STATUS, choose, chromium, draw, lose_the_stream, until

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")

ASKED = "document.getElementById('key-dialog')?.open"
REFUSED = "(w => w.hidden ? '' : w.textContent)(document.getElementById('wrong-key'))"


@pytest.fixture
def text(tmp_path: Path) -> str:
    told, key = keys.make("ann")
    key_store.add(tmp_path / "keys.jsonl", key)
    return told


@pytest.fixture
def api(tmp_path: Path, text: str, redis_socket: Path) -> Iterator[Api]:
    path, address = tmp_path / "keys.jsonl", f"unix://{redis_socket}"
    settings = Settings(redis_url=address, namespace="page-keys", keys_file=path, heartbeat=0.3, _env_file=None)
    with running_api(settings, text) as api:
        api.show_card()
        yield api
        api.empty()


def give(tab: Page, key: str) -> None:
    """By the keyboard alone: the field has the focus."""
    tab.keyboard.insert_text(key)
    tab.keyboard.press("Enter")


def test_the_page_asks_for_a_key_and_goes_on_where_it_was(tab: Page, api: Api, text: str, problems: list[str]) -> None:
    tab.goto(api.url)
    until(tab, ASKED)
    assert tab.evaluate("document.activeElement.id") == "key"
    give(tab, text[:-1])
    until(tab, REFUSED)
    assert tab.evaluate(REFUSED) == "this key does not exist, or it was revoked"
    assert tab.evaluate("document.getElementById('key').getAttribute('aria-invalid')") == "true"
    give(tab, text)
    until(tab, READY)
    assert not tab.evaluate(ASKED)

    choose(tab, n="1", seed="7")
    draw(tab)
    until(tab, f"{STATUS}.startsWith('Waiting')")
    claim = api.claim()
    assert spec_of(claim).seeds[0] == 7
    token = {"image_index": 0, "step": 1, "steps": 2, "positions": [0], "tokens": [1], "n_done": 1, "n_total": 16}
    api.publish(claim, 1, "started", {"attempt": 1, "images": 1, "grid": [4, 4], "steps": 2, "known": 0})
    api.publish(claim, 2, "tokens", token)
    until(tab, f"{STATUS}.startsWith('Step 1 of 2')")
    # The session ends half-way: it is asked again, and the rest of the stream comes after what was seen.
    tab.context.clear_cookies()
    lose_the_stream(tab, api)
    until(tab, ASKED)
    tab.evaluate("""(status => { window.said = []; new MutationObserver(() => said.push(status.textContent))
      .observe(status, {childList: true}); })(document.getElementById('status'))""")
    api.publish(claim, 3, "tokens", token | {"step": 2, "positions": [5], "n_done": 16})
    give(tab, text)
    until(tab, f"{STATUS} === 'All tokens are drawn. Decoding the picture…'")
    assert "Drawing…" not in tab.evaluate("said")  # the stream's beginning is not told again
    painted = "(c => [...c.getContext('2d').getImageData(0, 0, 16, 16).data].filter((v, k) => k % 4 == 3 && v).length)"
    assert tab.evaluate(f"{painted}(document.querySelector('#pictures canvas'))") == 32
    api.finish(claim, 4, [*spec_of(claim).seeds])
    until(tab, DRAWN)
    # No script can read what speaks for the user now, and nothing keeps the key.
    assert tab.evaluate("document.cookie") == ""
    assert tab.evaluate("[document.getElementById('key').value, localStorage.length, sessionStorage.length]") == [
        "",
        0,
        0,
    ]
    assert all("401" in problem for problem in problems)


def test_who_gives_no_key_is_told_so_and_may_give_it_later(tab: Page, api: Api, text: str) -> None:
    tab.goto(api.url)
    until(tab, ASKED)
    tab.keyboard.press("Escape")
    until(tab, "document.getElementById('model').textContent === 'This server needs a key.'")
    assert tab.evaluate("document.getElementById('draw').disabled")
    tab.evaluate("document.getElementById('give-key').click()")
    until(tab, ASKED)
    give(tab, text)
    until(tab, READY)
