"""Logs in JSON: one line for each request and each job, with one request id in all processes, and without secrets."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import logs
from service.logs import LogFormat
from tests.support.keys import new_key
from tests.support.processes import REPOSITORY, die_with_parent
from tests.support.waiting import PATIENCE, eventually

Line = dict[str, Any]

# The real worker with the chaos suite's engine: it needs no torch, and a class of it fails.
WORKER = """
import sys
import tests.chaos.engine as chaos
from service.cli.main import main
from service.worker import engine_loading
chaos.STEP_SECONDS = 0.02
engine_loading.load_engine = lambda settings, model, **_: chaos.ChaosEngine(model)
sys.exit(main(["worker", "--metrics-port", "0", "--log-format", "json"]))
"""
API = 'import sys; from service.cli.main import main; sys.exit(main(["api", "--port", "0", "--log-format", "json"]))'


@contextmanager
def process(code: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stderr=output,
            preexec_fn=die_with_parent,
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


class Running:
    """A replica of the API and a worker, and what they have logged so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        assert eventually(lambda: self._url() is not None), self.text()
        self.client = httpx.Client(base_url=str(self._url()), timeout=PATIENCE)

    def text(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def lines(self, process: str = "*") -> list[Line]:
        """Raises where a line is not JSON; one that is not complete yet is left out."""
        texts = [path.read_text().rpartition("\n")[0] for path in self.folder.glob(f"{process}.log")]
        return [json.loads(line) for text in texts for line in text.splitlines()]

    def find(self, event: str, **fields: Any) -> list[Line]:
        wanted = {"event": event, **fields}
        return [line for line in self.lines() if wanted.items() <= line.items()]

    def one(self, event: str, **fields: Any) -> Line:
        assert eventually(lambda: bool(self.find(event, **fields))), (event, fields, self.text())
        [line] = self.find(event, **fields)
        return line

    def _url(self) -> str | None:
        found = re.search(r"http://127\.0\.0\.1:\d+(?=  )", (self.folder / "api.log").read_text())
        return None if found is None else found[0]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    return path, new_key(path, "ann")


@pytest.fixture(scope="module")
def running(redis_socket: Path, keyed: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, (keys, key) = tmp_path_factory.mktemp("logs"), keyed
    environment = {
        "ARPG_REDIS_URL": f"unix://{redis_socket}",
        "ARPG_NAMESPACE": "logs",
        "ARPG_ALLOW_UNSAFE_REDIS": "1",
        "ARPG_KEYS_FILE": str(keys),
    }
    with (
        process(API, folder / "api.log", **environment),
        process(WORKER, folder / "worker.log", **environment),
    ):
        running = Running(folder)
        running.client.headers["Authorization"] = f"Bearer {key}"
        assert eventually(lambda: bool(running.client.get("/v1/models").json()["models"])), running.text()
        yield running
        running.client.close()
    assert running.lines("worker")[-1]["pid"] != running.lines("api")[-1]["pid"]
    assert all({"time", "level", "logger", "pid", "message"} <= line.keys() for line in running.lines())


def draw(running: Running, request_id: str, prefer: str = "wait=20", **fields: Any) -> httpx.Response:
    headers = {"X-Request-ID": request_id, "Prefer": prefer}
    return running.client.post("/v1/generate", json={"steps": 2} | fields, headers=headers)


def test_one_request_id_is_in_the_lines_of_all_processes(running: Running) -> None:
    response = draw(running, "whole")
    assert (response.status_code, response.json()["status"]) == (200, "succeeded")
    job = response.json()
    told = {"request_id": "whole", "job_id": job["id"], "model": "demo-text", "task": "generate", "client": "ann"}
    request = running.one("request", request_id="whole")
    assert request.items() >= told.items()
    assert request.items() >= {"method": "POST", "route": "/v1/generate", "status": 200, "outcome": "answered"}.items()
    assert 0 < request["timings"]["first_byte_seconds"] <= request["timings"]["total_seconds"] < PATIENCE
    ended = running.one("job", request_id="whole")
    assert ended.items() >= (told | {"outcome": "succeeded", "attempt": 1}).items()
    # The stages as the job itself tells them.
    total = {"total_seconds": pytest.approx(job["timings"]["total_seconds"], abs=0.5)}
    assert ended["timings"] == {name: pytest.approx(s, abs=1e-6) for name, s in job["timings"].items()} | total
    assert ended["timings"]["total_seconds"] >= ended["timings"]["draw_seconds"] > 0
    assert ended in running.lines("worker")
    assert request in running.lines("api")


def test_a_refused_request_has_a_line_with_its_code(running: Running) -> None:
    assert draw(running, "no-class", **{"class": "unicorn"}).status_code == 422
    line = running.one("request", request_id="no-class")
    wanted = {"outcome": "refused", "status": 422, "task": "generate", "model": "demo-text", "client": "ann"}
    assert line.items() >= wanted.items()
    assert line["code"] == "unknown_class"
    assert "job_id" not in line
    headers = {"X-Request-ID": "no-key", "Authorization": "Bearer wrong"}
    assert running.client.post("/v1/generate", json={}, headers=headers).status_code == 401
    line = running.one("request", request_id="no-key")
    assert (line["outcome"], line["code"], line["status"]) == ("refused", "key_invalid", 401)
    assert running.find("job", request_id="no-class") == running.find("job", request_id="no-key") == []


def test_a_failed_job_has_a_line_with_its_code(running: Running) -> None:
    response = draw(running, "poison", steps=8, **{"class": "raises"})
    assert response.json()["error"]["code"] == "engine_failed"
    line = running.one("job", request_id="poison")
    assert line.items() >= {"outcome": "failed", "code": "engine_failed", "job_id": response.json()["id"]}.items()
    assert line["timings"].keys() >= {"total_seconds", "queue_seconds"}
    # What else the worker says of the job has the request's id, too.
    assert [one for one in running.lines("worker") if one["level"] == "warning" and one.get("request_id") == "poison"]


def test_cancelled_jobs_have_a_line_from_the_process_that_ends_them(running: Running) -> None:
    drawn = draw(running, "running", prefer="", steps=64, n=10).json()
    queued = draw(running, "queued", prefer="", steps=64, n=10).json()
    assert eventually(lambda: running.client.get(drawn["urls"]["self"]).json()["status"] == "running")
    for job in (queued, drawn):
        running.client.delete(job["urls"]["cancel"], headers={"X-Request-ID": "stop"})
    for request_id, job, process in (("queued", queued, "api"), ("running", drawn, "worker")):
        line = running.one("job", request_id=request_id)
        wanted = {"outcome": "canceled", "job_id": job["id"], "model": "demo-text", "task": "generate", "client": "ann"}
        assert line.items() >= wanted.items()
        assert line in running.lines(process)
        assert line["timings"]["total_seconds"] > 0
    assert {line["job_id"] for line in running.find("request", request_id="stop")} == {queued["id"], drawn["id"]}


def test_a_job_that_nobody_begins_in_time_has_a_line(running: Running) -> None:
    blocking = [draw(running, f"blocking-{index}", prefer="", steps=64, n=10).json() for index in range(3)]
    headers = {"X-Request-ID": "late", "X-Start-Timeout": "1"}
    late = running.client.post("/v1/generate", json={"n": 10, "steps": 64}, headers=headers).json()["id"]
    line = running.one("job", request_id="late")
    wanted = {"outcome": "expired", "code": "start_timeout", "job_id": late, "model": "demo-text", "task": "generate"}
    assert line.items() >= wanted.items()
    assert line["timings"]["total_seconds"] >= 1
    for job in blocking:
        running.client.delete(job["urls"]["cancel"])


def test_logs_hold_no_secrets(running: Running, keyed: tuple[Path, str]) -> None:
    job = draw(running, "secret").json()
    links = running.client.post(f"{job['urls']['self']}/links").json()
    token = links["images"][0].partition("?token=")[2]
    assert httpx.get(f"{running.client.base_url}{links['images'][0]}").status_code == 200
    session = running.client.post("/v1/session")
    cookie = session.cookies["arpg_session"]
    image = running.one("request", route="/v1/jobs/{id}/images/{index}")
    assert image["path"] == f"{job['urls']['self']}/images/0"
    said = running.text()
    for secret in (keyed[1], token, cookie, keyed[0].read_text().split('"hash": "')[-1][:20]):
        assert secret
        assert secret not in said


def test_probes_have_no_line_unless_they_fail(running: Running) -> None:
    assert running.client.get("/healthz", headers={"X-Request-ID": "probe"}).status_code == 200
    assert running.client.get("/metrics", headers={"X-Request-ID": "scrape"}).status_code == 403
    assert running.one("request", request_id="scrape")["code"] == "scope_needed"
    assert running.find("request", request_id="probe") == []


def test_a_path_can_forge_no_line(running: Running) -> None:
    assert running.client.get("/v1/a%0Ab", headers={"X-Request-ID": "forger"}).status_code == 404
    line = running.one("request", request_id="forger")
    assert line["message"].startswith("GET /v1/a%0Ab: 404 refused")


# ---- formats ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, LogFormat], None]]:
    """Sets up logging as in a new process; afterwards it is as before."""
    root, lines = logging.getLogger(), logging.getLogger("service.lines")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    before = root.level, lines.level

    def as_in_a_new_process(level: str, form: LogFormat) -> None:
        monkeypatch.setattr(root, "handlers", [])  # pytest's own are among them
        logs.set_up(level, form)

    yield as_in_a_new_process
    logging.captureWarnings(False)
    root.setLevel(before[0])
    lines.setLevel(before[1])


def test_every_message_is_one_line_of_json(
    set_up: Callable[[str, LogFormat], None], capsys: pytest.CaptureFixture[str]
) -> None:
    set_up("info", "json")
    log = logging.getLogger("somewhere")
    with logs.about(request_id="r1"):
        log.warning("two\nlines: %s", "ü")
        logs.tell(job_id="j1", seconds=float("nan"))
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("failed")
    warnings.warn("old", stacklevel=1)
    logs.status("listening")
    logs.line("request", "x", timings={"seconds": float("inf"), "of": 1 / 3})
    crash = threading.Thread(target=lambda: 1 // 0)
    crash.start()
    crash.join()
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second, third, fourth, fifth, last = (json.loads(line) for line in captured.err.splitlines())
    assert (first["message"], first["level"], first["logger"]) == ("two\nlines: ü", "warning", "somewhere")
    assert first["request_id"] == "r1"
    assert "job_id" not in first
    assert (second["request_id"], second["job_id"]) == ("r1", "j1")
    assert second["exception"].endswith("ValueError: why")
    assert "UserWarning: old" in third["message"]
    assert (fourth["message"], "request_id" in fourth) == ("listening", False)
    assert fifth["timings"] == {"seconds": None, "of": 0.333333}
    assert last["exception"].endswith("ZeroDivisionError: integer division or modulo by zero")


def test_text_is_the_default_and_tells_of_requests_only_to_debug(
    set_up: Callable[[str, LogFormat], None], capsys: pytest.CaptureFixture[str]
) -> None:
    set_up("info", "text")
    logging.getLogger("somewhere").warning("watch out")
    logs.line("request", "POST /v1/generate: 202")
    logs.status("listening")
    logs.secret("the key")
    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:,]+ WARNING somewhere: watch out", said[0])
    assert said[1:] == ["listening", "the key"]
    set_up("debug", "text")
    logs.line("request", "POST /v1/generate: 202")
    assert capsys.readouterr().err.endswith("POST /v1/generate: 202\n")


def test_the_first_key_is_not_logged(
    set_up: Callable[[str, LogFormat], None], capsys: pytest.CaptureFixture[str]
) -> None:
    set_up("info", "json")
    logs.secret("the key")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("the key\n", "")
