"""The drawing commands with --server, against a real server."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.cli.main import main
from tests.api.test_answers import draw_next, meanwhile
from tests.support.api import Api, half_mask, noise, png, spec_of
from tests.support.keys import Keyed
from tests.support.processes import REPOSITORY
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(png(noise(32, 32)))
    return path


def test_a_server_draws_and_the_command_saves(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.png"
    command = ["generate", "mushroom", "--server", api.url, "--seed", "7", "-n", "2", "-o", str(out)]
    with meanwhile(lambda: draw_next(api)):
        assert main(command) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == f"{tmp_path}/a-0.png  seed 7"
    assert "\x1b" not in said.err + said.out
    for index in (0, 1):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"a-{index}.png")), noise(32, 32, seed=index))


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        (["vary", "{picture}", "--keep", "0.25", "--class", "tree"], {"keep": 0.25}),
        (["outpaint", "{picture}", "--left", "8", "--no-seamless"], {"left": 8, "seamless": False}),
        (["inpaint", "{picture}", "{mask}", "--feather", "3"], {"feather": 3, "mask_mode": "white"}),
        (["expand", "house", "--width", "48", "--height", "32"], {"width": 48, "method": "interpolate"}),
        (["generate", "--model", "hand", "--order", *map(str, range(16))], {"order": list(range(16))}),
    ],
)
def test_every_task_is_drawn_by_a_server(
    api: Api, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], fields: Any
) -> None:
    (tmp_path / "mask.png").write_bytes(png(half_mask(32, 32)))
    files = {"{picture}": str(picture), "{mask}": str(tmp_path / "mask.png")}
    out = tmp_path / "out.jpg"
    with meanwhile(lambda: draw_next(api)):
        given = [files.get(part, part) for part in command]
        assert main([*given, "--server", api.url, "--json", "-o", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["task"], told["server"], Image.open(out).format) == (command[0], api.url, "JPEG")
    job = api.client.get(f"/v1/jobs/{told['job']}").json()
    assert job["request"].items() >= fields.items()


def test_what_the_server_refuses_is_said_in_one_line(
    api: Api, keyed: Keyed, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARPG_API_KEY", raising=False)
    out = str(tmp_path / "a.png")
    for server, options, says in (
        (api.url, ["mushrom"], "class: the model has no such class; the nearest is mushroom"),
        (api.url, ["zzz"], f"its classes are those under {api.url}/v1/models/hand/classes"),
        (api.url, ["--model", "hadn"], "model: no such model; similar names: hand"),
        (keyed.api.url, [], "; set ARPG_API_KEY or --api-key"),
    ):
        assert main(["generate", *options, "--server", server, "-o", out]) == 1
        said = capsys.readouterr().err
        assert says in said
        assert len(said.splitlines()) == 1
    monkeypatch.setattr("service.client.retries.FIRST_PAUSE", 0.0)
    assert main(["generate", "--server", "http://127.0.0.1:9", "-o", out]) == 1
    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["option", "environment"])
def test_a_server_with_keys_draws_for_who_has_one(
    keyed: Keyed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    key = keyed.texts["ann"]
    monkeypatch.setenv("ARPG_API_KEY", "wrong" if given == "option" else key)
    options = ["--api-key", key] if given == "option" else []
    with meanwhile(lambda: draw_next(keyed.api)):
        assert main(["generate", "--server", keyed.api.url, *options, "-o", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--server", "localhost:8000"], "argument --server: must be an address such as http://127.0.0.1:8000"),
        (["--server", "http://h:port"], "argument --server: must be an address such as http://127.0.0.1:8000"),
        (["--server", "http://h", "--api-key", "k\u2011y"], "argument --api-key: a key has letters, digits and signs"),
        (["--api-key", "key"], "argument --api-key: only a server asks for a key; name it with --server"),
        (["--server", "http://h", "--device", "cpu"], "argument --device: the server chooses it"),
        (
            ["--server", "http://h", "--model", "a", "--model", "b"],
            "argument --model: this command uses one model; choose one: a, b",
        ),
    ],
)
def test_options_that_do_not_go_with_a_server_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["generate", *options, "-o", str(tmp_path / "a.png")])
    assert exit.value.code == 2
    assert says in capsys.readouterr().err


def started(api: Api, out: Path, stderr: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "service.cli", "generate", "--server", api.url, "-o", str(out)]
    environment = os.environ | {"COLORTERM": "truecolor", "TERM": "xterm-256color", "COLUMNS": "60", "LINES": "20"}
    environment.pop("NO_COLOR", None)
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit it ignored
    )


def test_an_interrupt_cancels_the_job(api: Api, tmp_path: Path) -> None:
    process = started(api, tmp_path / "a.png", subprocess.DEVNULL)
    assert eventually(lambda: api.metrics.registry.get_sample_value("arpg_http_streams") == 1), "it follows no job"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    [job] = api.client.get("/v1/jobs", params={"limit": 1}).json()["jobs"]
    assert job["status"] == "canceled"
    assert not (tmp_path / "a.png").exists()


def test_a_terminal_shows_the_picture_as_it_grows(api: Api, tmp_path: Path) -> None:
    """Standard error is a terminal of 24-bit colours; standard output is a pipe, and holds no escape sequence."""
    ours, theirs = pty.openpty()
    process = started(api, tmp_path / "a.png", theirs)
    os.close(theirs)
    assert eventually(lambda: api.queue(lambda q, _, __: q.depth("hand")) > 0), "no job came"
    claim = api.claim()
    data = {"attempt": 1, "images": 1, "grid": [4, 4], "steps": 2, "known": 0}
    api.publish(claim, 1, "started", data)
    tokens = {"image_index": 0, "step": 1, "steps": 2, "positions": [0], "tokens": [7], "n_done": 8, "n_total": 16}
    api.publish(claim, 2, "tokens", tokens)
    shown = read_until(ours, "50%")
    api.finish(claim, 3, [*spec_of(claim).seeds])
    shown += read_until(ours, "")
    assert process.wait(PATIENCE) == 0
    assert process.stdout is not None
    assert process.stdout.read().startswith(f"{tmp_path}/a.png  seed ")
    patch = np.arange(8 * 48, dtype=np.uint8).reshape(8, 4, 4, 3)[7]
    red, green, blue = patch[0, 0]
    assert f"\x1b[38;2;{red};{green};{blue}m" in shown
    assert "8 of 16 tokens" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1
    os.close(ours)


def read_until(terminal: int, text: str) -> str:
    """Until it shows this text; the empty text: until its process has ended."""
    shown = b""
    while not text or text.encode() not in shown:
        assert select.select([terminal], [], [], PATIENCE)[0], f"it shows no {text}: {shown!r}"
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    return shown.decode(errors="replace")
