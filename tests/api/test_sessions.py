"""What a browser carries in place of a key: a session's cookie, and signed addresses."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from service.auth import key_store
from service.auth.signing import Signer
from tests.support.keys import Keyed, code, new_key
from tests.support.waiting import eventually


def test_a_session_stands_for_its_key_until_it_is_revoked(keyed: Keyed) -> None:
    text = new_key(keyed.path, "cy")
    with httpx.Client(base_url=keyed.api.url) as browser:

        def open_session() -> httpx.Response:
            return browser.post("/v1/session", headers={"X-API-Key": text})

        assert eventually(lambda: open_session().status_code != 401), "a new key is not seen"
        opened = open_session()
        assert opened.json()["client"] == "cy"
        cookie = opened.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "max-age=3600", "path=/"))
        assert "secure" not in cookie
        assert text not in opened.headers["set-cookie"]
        assert browser.get("/v1/models").status_code == 200
        job = browser.post("/v1/generate", json={}).json()
        assert keyed.ask("ann", "GET", job["urls"]["self"]).status_code == 404
        assert browser.get(job["urls"]["self"]).json()["status"] == "queued"
        assert code(browser.post("/v1/session")) == (401, "key_needed")  # it does not renew itself
        for site in ("same-site", "cross-site"):  # a page on another port has the cookie, too
            assert browser.get("/v1/models", headers={"Sec-Fetch-Site": site}).status_code == 401
        key_store.revoke(keyed.path, "cy")
        assert eventually(lambda: browser.get("/v1/models").status_code != 200), "a revoked key still counts"
        assert code(browser.get("/v1/models")) == (401, "session_ended")


def test_a_page_of_another_origin_cannot_use_the_cookie(keyed: Keyed) -> None:
    """Over plain HTTP to another machine, a browser sends no Sec-Fetch-Site; a cookie goes to every port of a host."""
    own, key = keyed.api.url, {"X-API-Key": keyed.texts["ann"]}
    with httpx.Client(base_url=own) as browser:
        browser.post("/v1/session", headers=key)
        job = browser.post("/v1/generate", json={}, headers={"Origin": own}).json()
        links = f"{job['urls']['self']}/links"
        for origin in ("http://evil.example", "http://127.0.0.1:1", "http://127.0.0.1", "null", f"ftp{own[4:]}"):
            foreign = {"Origin": origin}
            for method, path in (("POST", "/v1/generate"), ("DELETE", job["urls"]["self"]), ("DELETE", "/v1/session")):
                assert code(browser.request(method, path, headers=foreign)) == (403, "cross_site")
            for path in ("/v1/models", job["urls"]["events"]):
                assert code(browser.get(path, headers=foreign)) == (401, "key_needed")
            # A key in a header is no cookie: no page has it by itself.
            assert keyed.ask("ann", "GET", job["urls"]["self"], headers=foreign).status_code == 200
            assert keyed.ask("ann", "POST", links, headers=foreign).status_code == 200
        host = {"Host": "upstream:8000"}  # as a proxy may send it
        allowed: tuple[dict[str, str], ...] = (
            {"Origin": own.replace("http:", "https:")},
            {"Origin": own.upper()},
            {},
            {"Origin": "https://art.example", "X-Forwarded-Host": "art.example", **host},
            {"Origin": "https://art.example", "Sec-Fetch-Site": "same-origin", **host},
        )
        for headers in allowed:
            assert browser.post(links, headers=headers).status_code == 200, headers
        assert code(browser.post(links, headers={"Origin": own, **host})) == (403, "cross_site")


def test_behind_tls_the_cookie_is_secure_and_a_session_can_be_left(keyed: Keyed) -> None:
    tls = {"X-API-Key": keyed.texts["ann"], "X-Forwarded-Proto": "https"}
    assert "secure" in keyed.ask(None, "POST", "/v1/session", headers=tls).headers["set-cookie"].lower()
    with httpx.Client(base_url=keyed.api.url) as browser:
        browser.post("/v1/session", headers={"X-API-Key": keyed.texts["ann"]})
        assert browser.delete("/v1/session").status_code == 204
        assert browser.get("/v1/models").status_code == 401


def test_a_signed_address_opens_one_jobs_pictures_and_events_for_a_while(
    keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, other = keyed.finished("ann"), keyed.finished("ann")
    links = keyed.ask("ann", "POST", f"{job['urls']['self']}/links").json()
    for url in (links["events"], *links["images"]):
        assert keyed.ask(None, "GET", url).status_code == 200
        token = url.partition("?")[2]
        for path in (other["urls"]["events"], job["urls"]["self"], "/v1/models", f"{job['urls']['self']}/links"):
            assert keyed.ask(None, "GET", f"{path}?{token}").status_code == 401
        assert keyed.ask(None, "DELETE", f"{job['urls']['self']}?{token}").status_code == 401
        assert keyed.ask(None, "GET", url[:-1] + ("A" if url[-1] != "A" else "Q")).status_code == 401
    # A link is no session, and a session no link.
    token = links["events"].partition("token=")[2]
    assert keyed.ask(None, "GET", "/v1/models", headers={"Cookie": f"arpg_session={token}"}).status_code == 401
    now = time.time
    monkeypatch.setattr("service.auth.signing.time.time", lambda: now() + 601)
    assert code(keyed.ask(None, "GET", links["events"])) == (401, "link_invalid")


def test_replicas_agree_on_what_was_signed_and_a_secret_of_the_settings_is_another(keyed: Keyed) -> None:
    prefix = keyed.api.settings.queue_config.prefix

    async def signed(queue: Any, _: Any, __: Any) -> None:
        one, two = Signer(queue.redis, prefix), Signer(queue.redis, prefix)
        own = Signer(queue.redis, prefix, "a secret of sixteen letters")
        token = await one.sign("session", "0123abcd", 2**38)
        assert await two.signed_by("session", token) == "0123abcd"
        assert await two.signed_by("job x", token) is None
        assert await own.signed_by("session", token) is None
        assert await own.signed_by("session", await own.sign("session", "0123abcd", 2**38)) == "0123abcd"
        later = token.replace(str(2**38), str(2**38 + 1))
        assert await two.signed_by("session", later) is None

    keyed.api.queue(signed)
