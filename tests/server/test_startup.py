"""The checks before a server accepts requests, and that it logs no secrets; with real processes."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis
from pydantic import ValidationError

from service.auth import key_store, keys
from service.cli.main import main
from service.jobs import ServerUnsuitable
from service.server import startup
from service.server.embedded import EmbeddedServer
from service.settings import Settings
from tests.support.processes import die_with_parent, free_port, server_binary
from tests.support.serve import arpg
from tests.support.waiting import PATIENCE, eventually


class Listener:
    """Stands for a socket, as the tests themselves listen only on loopback."""

    def __init__(self, host: str) -> None:
        self._host = host

    def getsockname(self) -> tuple[str, int]:
        return self._host, 8000


@contextmanager
def valkey(port: int, folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [server_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options],
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


# ---- keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7"])
def test_beyond_loopback_a_key_is_made_and_printed_once(
    host: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=tmp_path, _env_file=None)
    store = startup.startup_keys(settings, Listener(host))  # type: ignore[arg-type]
    [text] = re.findall(r"arpg_\S+", capfd.readouterr().err)
    found = store.find(text)
    assert found is not None
    assert (found.name, found.scopes, found.priority) == ("first", frozenset({"draw", "metrics"}), "high")
    again = startup.startup_keys(settings, Listener(host))  # type: ignore[arg-type]
    assert again.needed
    assert again.find(text)
    assert capfd.readouterr().err == ""


def test_a_key_that_cannot_be_stored_is_valid_for_this_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    settings = Settings(keys_file=tmp_path / "file" / "keys.jsonl", _env_file=None)
    store = startup.startup_keys(settings, Listener("0.0.0.0"))  # type: ignore[arg-type]
    said = capfd.readouterr().err
    assert "until this process ends" in said
    assert store.find(re.findall(r"arpg_\S+", said)[0])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.8.8.8"])
def test_on_loopback_no_key_is_needed_until_there_is_one(
    host: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=tmp_path, _env_file=None)
    assert not startup.startup_keys(settings, Listener(host)).needed  # type: ignore[arg-type]
    key_store.add(settings.keys_path, keys.make("ann")[1])
    assert startup.startup_keys(settings, Listener(host)).needed  # type: ignore[arg-type]
    key_store.revoke(settings.keys_path, "ann")
    assert startup.startup_keys(settings, Listener(host)).needed  # type: ignore[arg-type]
    assert "is revoked" in capfd.readouterr().err


def test_arpg_keys_adds_lists_and_revokes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.jsonl"
    here = ["--keys-file", str(path)]
    limits = ["--weight", "2", "--quota", "5", "--rate", "60", "--priority", "high", "--scope", "draw", "--scope"]
    assert main(["keys", "add", "ann", *limits, "metrics", *here]) == 0
    text = capfd.readouterr().out.strip()  # nothing else, for scripts
    found = key_store.KeyStore(path, needed=True).find(text)
    assert found is not None
    assert (found.weight, found.quota, found.rate, found.priority) == (2, 5, 60, "high")
    assert main(["keys", "add", "ann", *here]) == 1
    assert main(["keys", "add", "local", *here]) == 1
    assert main(["keys", "add", "a b", *here]) == 1
    assert "arpg: name: takes 1 to 64 letters of ASCII, digits, dots, hyphens and" in capfd.readouterr().err
    assert main(["keys", "add", "bob", "--weight", "0", *here]) == 1
    assert "weight: Input should be greater" in capfd.readouterr().err
    assert main(["keys", "list", *here]) == 0
    shown = capfd.readouterr().out
    assert "ann" in shown
    assert text.split("_", 2)[2] not in shown
    assert main(["keys", "revoke", "ann", *here]) == 0
    assert main(["keys", "revoke", "ann", *here]) == 1
    assert key_store.KeyStore(path, needed=True).find(text) is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["keys", "add", "ann", "--keys-file", "/dev/null/x/k"], "Not a directory"),
        (["keys", "list", "--keys-file", "/"], "can't read /"),
        (["api", "--redis-url", "redis://127.0.0.1:1", "--port", "0", "--host", "a..b"], "not a host name"),
        (["api", "--redis-url", "redis://127.0.0.1:1", "--port", "0", "--host", "192.0.2.1"], "192.0.2.1"),
        (["api", "--redis-url", "redis://127.0.0.1:1", "--port", "0", "--host", "nonsense.invalid"], "nonsense"),
    ],
)
def test_an_expected_error_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARPG_DATA_DIR", str(tmp_path))
    assert main(arguments) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("arpg: ")
    assert says in line


# ---- redis ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["serve", "api", "worker"])
def test_a_redis_that_may_lose_jobs_is_refused(
    command: str, redis_socket: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    port = ["--metrics-port", "0"] if command == "worker" else ["--port", "0"]
    url = f"unix://{redis_socket}"
    assert main([command, "--redis-url", url, "--data-dir", str(tmp_path), *port]) == 1
    said = capfd.readouterr().err
    assert "appendonly is off" in said
    assert "ARPG_ALLOW_UNSAFE_REDIS=1" in said
    assert "Traceback" not in said


@pytest.mark.anyio
async def test_an_unsafe_redis_is_reported_and_may_be_allowed(tmp_path: Path) -> None:
    port = free_port()
    address = f"redis://127.0.0.1:{port}"
    settings = Settings(redis_url=address, _env_file=None)
    assert not await startup.check_redis(address, settings)  # no server runs yet
    with valkey(port, tmp_path, "--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"):
        while not await startup.check_redis(address, settings.model_copy(update={"allow_unsafe_redis": True})):
            pass
        with pytest.raises(ServerUnsuitable, match="maxmemory-policy is allkeys-lru"):
            await startup.check_redis(address, settings)
        with redis.Redis(port=port) as client:
            client.config_set("maxmemory-policy", "noeviction")
            assert await startup.check_redis(address, settings)
            client.config_set("maxmemory", "600mb")
            with pytest.raises(
                ServerUnsuitable, match="raise maxmemory to 768 MiB, or lower ARPG_BLOB_BYTES to 419430400"
            ):
                await startup.check_redis(address, settings)
            assert await startup.check_redis(address, settings.model_copy(update={"blob_bytes": 419430400}))
            client.execute_command("ACL", "SETUSER", "default", "-info", "-config")
            with pytest.raises(ServerUnsuitable, match="does not say how it stores its data"):
                await startup.check_redis(address, settings)


def test_a_redis_that_starts_later_is_checked_then(tmp_path: Path) -> None:
    port = free_port()
    environment = {"ARPG_DATA_DIR": str(tmp_path), "PORT": "0"}
    with arpg(["api", "--redis-url", f"redis://127.0.0.1:{port}"], **environment) as (process, url):
        ready = httpx.get(f"{url}/readyz")
        assert (ready.status_code, "redis does not respond" in ready.json()["reasons"][0]) == (503, True)
        with valkey(port, tmp_path, "--appendonly", "no"):
            assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        assert "appendonly is off" in process.stderr.read()


@pytest.mark.parametrize("url", ["redis://:p#ss@host", "redis://:pa/ss@host:x", "http://host", "host:6379", ""])
def test_an_invalid_redis_url_is_rejected_without_repeating_it(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARPG_REDIS_URL", url)
    with pytest.raises(ValidationError):
        Settings(_env_file=None)
    assert main(["api"]) == 2
    said = capfd.readouterr().err
    assert "percent-encoded" in said
    assert not url or url not in said
    assert "ss@" not in said


# ---- secrets --------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_the_log(tmp_path: Path) -> None:
    data = tmp_path / "var"
    text, key = keys.make("ann", scopes=("draw", "metrics"))
    key_store.add(data / "keys.jsonl", key)
    signing, hidden = "sixteen-letters-and-more", ["p4ss:w/rd"]
    embedded = EmbeddedServer(tmp_path / "valkey", tcp=True)
    with embedded as address:
        hidden.append(address.partition("@")[0].rpartition(":")[2])
        options = {"ARPG_DATA_DIR": str(data), "PORT": "0", "ARPG_SIGNING_KEY": signing, "ARPG_REDIS_URL": address}
        with arpg(["api", "--log-level", "debug"], **options) as (process, url), httpx.Client(base_url=url) as client:
            headers = {"Authorization": f"Bearer {text}"}
            assert client.get("/v1/models", headers=headers).json() == {"object": "list", "data": [], "models": []}
            assert client.get("/metrics", headers=headers).status_code == 200
            client.get("/v1/models", headers={"X-API-Key": text[:-1] + "!"})
            session = client.post("/v1/session", headers=headers)
            cookie = session.cookies["arpg_session"]
            client.get("/v1/models")
            client.get(f"/v1/jobs/x/events?token={cookie}", headers={"Cookie": ""})
            client.post("/v1/generate", headers=headers, json={})
            client.post("/v1/generate", headers=headers, content=b"{")
            (data / "keys.jsonl").write_text((data / "keys.jsonl").read_text() + "broken\n")
            time.sleep(key_store.KeyStore.REREAD_SECONDS)
            client.get("/v1/models", headers=headers)
            embedded.stop()
            assert client.post("/v1/generate", headers=headers, json={}, timeout=60).status_code == 503
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            assert process.stderr is not None
            said = process.stderr.read()
    hidden += [text, text.split("_", 2)[2], key.sha256, cookie, cookie.rpartition(".")[2], signing]
    assert "redis" in said  # the errors themselves are logged
    assert "line 2" in said
    assert [secret for secret in hidden if secret in said] == []


def test_a_wrong_redis_password_is_not_repeated(tmp_path: Path) -> None:
    port = free_port()
    with valkey(port, tmp_path, "--appendonly", "yes", "--requirepass", "right"):
        options = {
            "ARPG_DATA_DIR": str(tmp_path),
            "ARPG_REDIS_URL": f"redis://:wr0ng-0ne@127.0.0.1:{port}",
            "PORT": "0",
        }
        with arpg(["api", "--log-level", "debug"], **options) as (process, url):
            assert httpx.get(f"{url}/readyz").status_code == 503
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            assert process.stderr is not None
            assert "wr0ng-0ne" not in process.stderr.read()


def test_metrics_can_have_a_port_of_their_own_without_a_key(tmp_path: Path) -> None:
    key_store.add(tmp_path / "keys.jsonl", keys.make("ann")[1])
    options = {"ARPG_DATA_DIR": str(tmp_path), "PORT": "0", "ARPG_METRICS_PORT": "0"}
    with (
        EmbeddedServer(tmp_path / "valkey") as address,
        arpg(["api"], **options, ARPG_REDIS_URL=address) as (process, url),
    ):
        assert process.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
        assert found is not None
        own = f"{found[0]}/metrics"
        assert eventually(lambda: httpx.get(own).status_code == 200)
        assert "arpg_http_requests_total" in httpx.get(own).text
        for path in ("/", "/v1/models", "/readyz"):
            assert httpx.get(f"{found[0]}{path}").status_code == 404
        assert httpx.get(f"{url}/metrics").status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
