"""A stranger gets nothing, a client its own jobs alone, and a browser what it can do without a header."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_harness import Api, noise, png, running_api

from service import keys
from service.api import editing, forks, health, jobs, models, sessions, tasks
from service.app import create_app
from service.queue import NewJob, Queue, Submitted
from service.settings import Settings
from service.signing import Signer


class Keyed:
    """A server that needs keys, and three of them."""

    def __init__(self, api: Api, path: Path, texts: dict[str, str]) -> None:
        self.api, self.path, self.texts = api, path, texts

    def ask(self, who: str | None, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.texts[who]}"} if who else {}
        with httpx.Client(base_url=self.api.url, timeout=20) as client:
            return client.request(method, path, headers=headers | more.pop("headers", {}), **more)

    def finished(self, who: str) -> dict[str, Any]:
        response = self.ask(who, "POST", "/v1/generate", json={})
        assert response.status_code == 202, response.text
        self.api.draw(self.api.claim())
        job: dict[str, Any] = response.json()
        return job


def new_key(path: Path, name: str, **limits: Any) -> str:
    text, key = keys.make(name, **limits)
    keys.add(path, key)
    return text


@pytest.fixture(scope="module")
def keyed(redis_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    path = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    texts = {
        "ann": new_key(path, "ann", priority="high", weight=2.0, quota=7),
        "bob": new_key(path, "bob"),
        "ops": new_key(path, "ops", scopes=("metrics",)),
    }
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="keyed", keys_file=path, _env_file=None)
    with running_api(settings, texts["ann"]) as api:
        api.show_card()
        yield Keyed(api, path, texts)


@pytest.fixture(autouse=True)
def tidy(keyed: Keyed) -> Iterator[None]:
    yield
    keyed.api.empty()


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


# ---- strangers -----------------------------------------------------------------------------------------------------

OPEN = {"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/playground"}


def test_every_route_but_the_open_ones_needs_a_key(keyed: Keyed) -> None:
    topics = (editing, forks, health, jobs, models, sessions, tasks)
    routes = [route for topic in topics for route in topic.router.routes]
    routes += [route for route in create_app(keyed.api.settings).routes if hasattr(route, "path")]
    asked = {(route.path, method) for route in routes for method in getattr(route, "methods", None) or {"GET"}}  # type: ignore[attr-defined]
    assert ("/metrics", "GET") in asked
    assert ("/v1/jobs/{id}/events", "GET") in asked
    for path, method in sorted(asked):
        response = keyed.ask(None, method, path.replace("{id}", "x").replace("{index}", "0").replace("{model}", "hand"))
        if path not in OPEN:
            assert response.status_code == 401, (method, path)
            assert response.headers["www-authenticate"] == "Bearer"
            assert method == "HEAD" or response.headers["content-type"] == "application/problem+json"
        else:
            assert response.status_code in (200, 307, 405), (method, path)
    for path in ("/nothing", "/healthz/", "/v1", "/metrics/", "/playgrounds", "/docs/x"):
        assert keyed.ask(None, "GET", path).status_code == 401, path


def test_a_refused_stranger_is_told_before_its_body_is_read(keyed: Keyed) -> None:
    def body() -> Iterator[bytes]:
        yield b"{"
        raise AssertionError("it went on to read")

    with httpx.Client(base_url=keyed.api.url) as client, pytest.raises(AssertionError):
        client.post("/v1/generate", content=body(), headers={"Content-Length": "100"})
    assert keyed.api.queue(lambda q, _, __: q.depth("hand")) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer x"}, {"Authorization": "Bearer"}, {"Authorization": "Basic YTpi"},
        {"X-API-Key": "arpg_00000000_" + "A" * 43}, {"Cookie": "arpg_session=x"},
        {"X-API-Key": b"\xe9"},
    ],
)  # fmt: skip
def test_what_is_no_key_opens_nothing(keyed: Keyed, headers: dict[str, Any]) -> None:
    assert keyed.ask(None, "GET", "/v1/models", headers=headers).status_code == 401


def test_a_key_with_one_letter_changed_is_no_key(keyed: Keyed) -> None:
    text = keyed.texts["ann"]
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    assert code(keyed.ask(None, "GET", "/v1/models", headers={"X-API-Key": wrong})) == (401, "key_invalid")
    assert keyed.ask(None, "GET", "/v1/models", headers={"X-API-Key": text}).status_code == 200


def test_with_keys_a_server_goes_by_any_name(keyed: Keyed) -> None:
    assert keyed.ask("ann", "GET", "/v1/models", headers={"Host": "art.example"}).status_code == 200


def test_an_empty_bearer_hides_no_other_key(keyed: Keyed) -> None:
    for empty in ("Bearer", "bearer"):
        headers = {"Authorization": empty, "X-API-Key": keyed.texts["ann"]}
        assert keyed.ask(None, "GET", "/v1/models", headers=headers).status_code == 200


def test_the_pages_are_open_and_readiness_tells_a_stranger_no_more_than_itself(keyed: Keyed) -> None:
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/playground/app.js"):
        assert keyed.ask(None, "GET", path).status_code == 200
    assert keyed.ask(None, "GET", "/readyz").json() == {"status": "ready"}
    assert keyed.ask("ann", "GET", "/readyz").json() == {"status": "ready", "models": ["hand"]}


def test_metrics_are_for_keys_with_that_scope_which_can_draw_nothing(keyed: Keyed) -> None:
    assert keyed.ask(None, "GET", "/metrics").status_code == 401
    assert code(keyed.ask("ann", "GET", "/metrics")) == (403, "scope_needed")
    assert "arpg_http_requests_total" in keyed.ask("ops", "GET", "/metrics").text
    assert code(keyed.ask("ops", "POST", "/v1/generate", json={})) == (403, "scope_needed")
    assert code(keyed.ask("ops", "GET", "/v1/models")) == (403, "scope_needed")


# ---- foreign jobs --------------------------------------------------------------------------------------------------


def test_a_foreign_job_is_404_everywhere_and_left_alone(keyed: Keyed) -> None:
    job = keyed.finished("ann")
    own = job["urls"]["self"]
    picture = {"source": {"job": job["id"]}, "keep": 0.5}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", own, {}), ("DELETE", own, {}), ("GET", f"{own}/events", {}), ("GET", f"{own}/images/0", {}),
        ("POST", f"{own}/fork", {"json": {"step": 1}}), ("POST", f"{own}/links", {}),
        ("POST", "/v1/vary", {"json": picture}),
    ]  # fmt: skip
    nobody = f"{int(time.time()):08x}-{'0' * 24}"
    for method, path, more in asked:
        foreign = keyed.ask("bob", method, path, **more)
        assert code(foreign) == (404, "unknown_job"), (method, path)
        # Word for word as for a job that never was.
        unknown = json.loads(json.dumps(more).replace(job["id"], nobody))
        never = keyed.ask("bob", method, path.replace(job["id"], nobody), **unknown)
        same = [{k: v for k, v in r.json().items() if k not in ("request_id", "instance")} for r in (foreign, never)]
        assert same[0] == same[1]
    for method, path, more in asked[:1] + asked[2:]:
        assert keyed.ask("ann", method, path, **more).status_code in (200, 202), (method, path)


def test_a_foreign_job_that_waits_cannot_be_cancelled(keyed: Keyed) -> None:
    job = keyed.ask("ann", "POST", "/v1/generate", json={}).json()
    assert keyed.ask("bob", "DELETE", job["urls"]["cancel"]).status_code == 404
    assert keyed.ask("ann", "GET", job["urls"]["self"]).json()["status"] == "queued"


def test_an_old_foreign_job_that_is_still_kept_looks_like_one_that_is_not(
    keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.submission.time.time", lambda: 2.0**30)
    job = keyed.ask("ann", "POST", "/v1/generate", json={}).json()
    monkeypatch.undo()
    never = f"{job['id'][:8]}-{'0' * 24}"
    for id in (job["id"], never):
        assert code(keyed.ask("bob", "GET", f"/v1/jobs/{id}")) == (410, "expired")
    assert keyed.ask("ann", "GET", job["urls"]["self"]).status_code == 200


def test_an_idempotency_key_is_its_clients_own(keyed: Keyed) -> None:
    sent = {"json": {"seed": 1}, "headers": {"Idempotency-Key": "same"}}
    ids = [keyed.ask(who, "POST", "/v1/generate", **sent).json()["id"] for who in ("ann", "bob", "ann")]
    assert ids[0] == ids[2] != ids[1]
    other = keyed.ask("bob", "POST", "/v1/generate", json={"seed": 2}, headers={"Idempotency-Key": "same"})
    assert code(other) == (422, "key_reused")


def test_the_queue_hears_whose_job_it_is_and_what_it_weighs(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    real, heard = Queue.submit, []

    async def submit(self: Queue, job: NewJob) -> Submitted:
        heard.append((job.client, job.weight, job.quota, job.priority))
        return await real(self, job)

    monkeypatch.setattr(Queue, "submit", submit)
    job = keyed.ask("ann", "POST", "/v1/generate", json={"priority": "high"}).json()
    keyed.api.draw(keyed.api.claim())
    fork = keyed.ask("ann", "POST", f"{job['urls']['self']}/fork", json={"step": 1, "priority": "low"})
    assert fork.status_code == 202
    assert heard == [("ann", 2.0, 7, "high"), ("ann", 2.0, 7, "low")]


# ---- browsers ------------------------------------------------------------------------------------------------------


def test_a_session_stands_for_its_key_until_it_is_revoked(keyed: Keyed) -> None:
    text = new_key(keyed.path, "cy")
    with httpx.Client(base_url=keyed.api.url) as browser:
        deadline = time.monotonic() + 5
        while (opened := browser.post("/v1/session", headers={"X-API-Key": text})).status_code == 401:
            assert time.monotonic() < deadline, "a new key is not seen"
            time.sleep(0.05)
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
        keys.revoke(keyed.path, "cy")
        while (answer := browser.get("/v1/models")).status_code == 200:
            assert time.monotonic() < deadline, "a revoked key still counts"
            time.sleep(0.05)
        assert code(answer) == (401, "session_ended")


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
    monkeypatch.setattr("service.signing.time.time", lambda: now() + 601)
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


# ---- priorities ----------------------------------------------------------------------------------------------------


def test_a_key_asks_for_no_higher_priority_than_its_own(keyed: Keyed) -> None:
    refused = keyed.ask("bob", "POST", "/v1/generate", json={"priority": "high"})
    assert code(refused) == (403, "priority_not_allowed")
    assert refused.json()["errors"][0]["field"] == "priority"
    assert keyed.ask("bob", "POST", "/v1/generate", json={"priority": "low"}).status_code == 202
    assert keyed.ask("ann", "POST", "/v1/generate", json={"priority": "high"}).status_code == 202
    picture = {"image": png(noise(8, 8)), "mask": png(noise(8, 8, channels=1))}
    inpainting = keyed.ask("bob", "POST", "/v1/inpaint", data={"priority": "high"}, files=picture)
    assert code(inpainting) == (403, "priority_not_allowed")
    assert keyed.ask("ann", "POST", "/v1/generate", json={"priority": "urgent"}).status_code == 422


# ---- the file ------------------------------------------------------------------------------------------------------


def test_the_file_holds_hashes_for_its_owners_eyes_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.jsonl"
    text = new_key(path, "ann", rate=5)
    assert text not in path.read_text()
    assert hashlib.sha256(text.encode()).hexdigest() in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    ring = keys.KeyRing(path, needed=False)
    found = ring.find(text)
    assert found is not None
    assert (found.name, found.rate, found.priority, found.scopes) == ("ann", 5, "normal", frozenset({"draw"}))


def test_the_file_stays_its_owners_whoever_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, owner, given = tmp_path / "keys.jsonl", os.getuid() + 1, []
    new_key(path, "ann")
    monkeypatch.setattr(keys.os, "fchown", lambda _, *whose: given.append(whose))
    new_key(path, "bob")
    assert given == []
    real = Path.stat

    def stat(self: Path, **more: Any) -> os.stat_result:
        told = real(self, **more)
        return os.stat_result((*told[:4], owner, *told[5:])) if self == path else told

    monkeypatch.setattr(Path, "stat", stat)
    new_key(path, "cy")
    assert given == [(owner, os.getgid())]


def test_keys_that_cannot_be_looked_at_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys.KeyRing, "REREAD_SECONDS", 0.0)
    path = tmp_path / "keys.jsonl"
    text = new_key(path, "ann")
    ring = keys.KeyRing(path, needed=False)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(keys.Path, "stat", denied)
        assert ring.needed
        assert ring.find(text)
        assert caplog.text.count("the keys stay as they were") == 1
        with pytest.raises(keys.KeysError, match="can't be looked at"):
            keys.KeyRing(path, needed=False)
    keys.revoke(path, "ann")
    assert ring.find(text) is None


def test_once_there_is_a_file_a_key_is_needed_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys.KeyRing, "REREAD_SECONDS", 0.0)
    path = tmp_path / "keys.jsonl"
    ring = keys.KeyRing(path, needed=False)
    assert not ring.needed
    text = new_key(path, "ann")
    assert ring.needed
    assert ring.find(text)
    keys.revoke(path, "ann")
    assert ring.needed
    assert ring.find(text) is None
    new = new_key(path, "ann")
    path.write_text(path.read_text() + "nonsense\n")
    assert ring.find(new) is None  # it stays as it was
    path.write_text(path.read_text().replace("nonsense\n", ""))
    assert ring.find(new)
    path.unlink()
    assert ring.needed
    assert ring.find(new) is None


@pytest.mark.parametrize("line", ["{", '{"name": "a"}', "[]", '{"name":"a","id":"00000000","sha256":"x"}', "\x00"])
def test_a_damaged_file_is_refused_by_line_and_not_repeated(tmp_path: Path, line: str) -> None:
    path = tmp_path / "keys.jsonl"
    new_key(path, "ann")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(keys.KeysError, match="line 2") as raised:
        keys.KeyRing(path, needed=False)
    assert path.read_text().split('"sha256":"')[1][:64] not in str(raised.value)


@pytest.mark.parametrize("name", ["local", "canary", "", "a b", "a/b", "a" * 65, "é"])
def test_a_name_is_a_plain_word_and_nobody_elses(tmp_path: Path, name: str) -> None:
    with pytest.raises(keys.KeysError):
        keys.make(name)
    path = tmp_path / "keys.jsonl"
    new_key(path, "ann")
    with pytest.raises(keys.KeysError, match="already"):
        new_key(path, "ann")


def test_comparing_takes_as_long_for_a_key_that_is_nearly_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, compared = tmp_path / "keys.jsonl", []
    text = new_key(path, "ann")
    real = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    ring = keys.KeyRing(path, needed=True)
    assert ring.find(text)
    assert ring.find(text[:-1] + ("A" if text[-1] != "A" else "B")) is None
    assert ring.find("arpg_00000000_" + "A" * 43) is None
    assert ring.find("nonsense") is None
    assert len(compared) == 4  # an unknown key is compared, too
    assert all(len(a) == len(b) == 64 for a, b in compared)
