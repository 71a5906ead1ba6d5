"""Where a key is needed, the page asks for it, and goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.auth import key_store, keys
from service.settings import Settings
from tests.support.api import Api, running_api
from tests.support.browser import Page, browser, chromium
from tests.support.playground import DRAWN, READY, STATUS, choose, lose_the_stream, submit

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


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path / "chromium") as tab:
        yield tab


def give(page: Page, key: str) -> None:
    """By the keyboard alone: the field has the focus."""
    page.type(key)
    page.press("Enter")


def test_the_page_asks_for_a_key_and_goes_on_where_it_was(page: Page, api: Api, text: str) -> None:
    page.open(api.url)
    page.wait(ASKED)
    assert page.run("document.activeElement.id") == "key"
    give(page, text[:-1])
    page.wait(REFUSED)
    assert page.run(REFUSED) == "there is no such key, or it was revoked"
    assert page.run("document.getElementById('key').getAttribute('aria-invalid')") == "true"
    give(page, text)
    page.wait(READY)
    assert not page.run(ASKED)

    choose(page, n="1", seed="7")
    submit(page)
    page.wait(f"{STATUS}.startsWith('Waiting')")
    claim = api.claim()
    assert claim.payload["seed"] == 7
    token = {"image_index": 0, "step": 1, "steps": 2, "positions": [0], "tokens": [1], "n_done": 1, "n_total": 16}
    api.publish(claim, 1, "started", {"attempt": 1, "images": 1, "grid": [4, 4], "steps": 2, "known": 0})
    api.publish(claim, 2, "tokens", token)
    page.wait(f"{STATUS}.startsWith('Step 1 of 2')")
    # The session ends half-way: it is asked again, and the rest of the stream comes after what was seen.
    page.forget_cookies()
    lose_the_stream(page, api)
    page.wait(ASKED)
    page.run("""(status => { window.said = []; new MutationObserver(() => said.push(status.textContent))
      .observe(status, {childList: true}); })(document.getElementById('status'))""")
    api.publish(claim, 3, "tokens", token | {"step": 2, "positions": [5], "n_done": 16})
    give(page, text)
    page.wait(f"{STATUS}.startsWith('Step 2 of 2')")
    assert "Drawing…" not in page.run("said")  # the stream's beginning is not told again
    painted = "(c => [...c.getContext('2d').getImageData(0, 0, 16, 16).data].filter((v, k) => k % 4 == 3 && v).length)"
    assert page.run(f"{painted}(document.querySelector('#pictures canvas'))") == 32
    api.finish(claim, 4, claim.payload["seeds"])
    page.wait(DRAWN)
    # No script can read what speaks for the user now, and nothing keeps the key.
    assert page.run("document.cookie") == ""
    assert page.run("[document.getElementById('key').value, localStorage.length, sessionStorage.length]") == ["", 0, 0]
    assert all("401" in problem for problem in page.problems)


def test_who_gives_no_key_is_told_so_and_may_give_it_later(page: Page, api: Api, text: str) -> None:
    page.open(api.url)
    page.wait(ASKED)
    page.press("Escape")
    page.wait("document.getElementById('model').textContent === 'this server wants a key'")
    assert page.run("document.getElementById('draw').disabled")
    page.run("document.getElementById('give-key').click()")
    page.wait(ASKED)
    give(page, text)
    page.wait(READY)
