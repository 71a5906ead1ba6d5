"""The page at /docs sends the requests that it describes, in a real browser, under the page's own policy."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page

from tests.support.api import Api, half_mask, noise, png
from tests.support.playground import until
from tests.support.waiting import PATIENCE

SEED = 2**63 - 1  # of which a number of JavaScript has only 53 bits


@pytest.fixture
def docs(tab: Page, api: Api) -> Page:
    tab.set_default_timeout(PATIENCE * 1000)
    tab.goto(f"{api.url}/docs")
    until(tab, "document.querySelector('#docs details')")
    return tab


def route(docs: Page, name: str) -> Locator:
    """The form of a route, opened."""
    title = docs.locator("summary code", has_text=re.compile(f"^{re.escape(name)}$"))
    title.click()
    return docs.locator("#docs > details", has=title).locator("form.try")


def sent(form: Locator, status: str) -> str:
    """Sends the form. Returns what the response shows."""
    form.get_by_role("button", name="Send").click()
    form.get_by_text(status, exact=True).wait_for()
    form.locator("button:has-text('Send'):enabled").wait_for()
    return form.locator("div[aria-live]").inner_text()


def test_a_request_can_be_tried(docs: Page, api: Api, problems: list[str]) -> None:
    generate = route(docs, "POST /v1/generate")
    generate.locator("textarea").fill(f'{{"class": "cone", "n": 2, "seed": {SEED}}}')
    generate.locator("input[type=password]").fill("a-secret")
    assert generate.get_by_label("on_disconnect").locator("option").all_inner_texts() == ["—", "cancel"]
    with docs.expect_request("**/v1/generate") as request:
        said = sent(generate, "202 Accepted")
    assert f'"seed": {SEED}' in said
    assert request.value.headers["authorization"] == "Bearer a-secret"
    command = generate.locator("pre.curl").inner_text()
    assert command.endswith(f"'{api.url}/v1/generate'")
    assert "--json" in command
    assert "a-secret" not in command
    api.draw(api.claim())

    # The routes of jobs know the id of the job that was made here.
    assert '"status": "succeeded"' in sent(route(docs, "GET /v1/jobs/{id}"), "200 OK")
    events = sent(route(docs, "GET /v1/jobs/{id}/events"), "200 OK")
    assert [name in events for name in ("event: queued", "event: tokens", "event: completed")] == [True] * 3
    image = route(docs, "GET /v1/jobs/{id}/images/{index}")
    image.locator("input[name='path index']").fill("1")
    sent(image, "200 OK")
    until(docs, "document.querySelector('.try img')?.naturalWidth === 32")

    # An error is shown as the server tells it.
    generate.locator("textarea").fill('{"class": "unicorn"}')
    assert '"field": "class"' in sent(generate, "422 Unprocessable Entity")
    assert [problem for problem in problems if "status of 422" not in problem] == []


def test_files_can_be_sent(docs: Page, api: Api, problems: list[str]) -> None:
    inpaint = route(docs, "POST /v1/inpaint")
    inpaint.get_by_label("sent as").select_option("multipart/form-data")
    for name, array in (("image", noise(32, 32)), ("mask", half_mask(32, 32))):
        file = {"name": f"{name}.png", "mimeType": "image/png", "buffer": png(array)}
        inpaint.locator(f"input[name='form {name}']").set_input_files(file)  # type: ignore[arg-type]
    inpaint.locator("input[name='form seed']").fill("7")
    assert '"task": "inpaint"' in sent(inpaint, "202 Accepted")
    command = inpaint.locator("pre.curl").inner_text()
    assert command.startswith("curl -F 'image=@image.png' -F 'seed=7' -F 'mask=@mask.png' ")
    assert problems == []


def test_a_stream_can_be_stopped(docs: Page, api: Api, problems: list[str]) -> None:
    job = api.generate()
    events = route(docs, "GET /v1/jobs/{id}/events")
    events.locator("input[name='path id']").fill(job["id"])
    events.get_by_role("button", name="Send").click()
    events.get_by_text("event: queued").wait_for()
    events.get_by_role("button", name="Stop").click()
    events.get_by_text("Stopped.").wait_for()
    assert problems == []
