"""Where the drawing commands write: checked before anything is drawn, and told as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.cli.main import main
from tests.support.processes import REPOSITORY


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command says that is asked wrongly."""
    with pytest.raises(SystemExit) as exit:
        main([*arguments])
    said = capsys.readouterr()
    assert (exit.value.code, said.out) == (2, "")
    return said.err


@pytest.mark.parametrize("command", [["generate"], ["vary", "p.png"], ["generate", "--server", "http://127.0.0.1:9"]])
def test_an_output_that_can_not_be_written_is_refused_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """No model has this name, and no server this address: the command does not get so far."""
    command = [*command, "--model", "nobody"]
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "folder.png").mkdir()
    for output, says in (
        (
            tmp_path / "nodir" / "x.png",
            f"there is no folder {tmp_path}/nodir; make it first: mkdir -p {tmp_path}/nodir",
        ),
        (tmp_path / "x.bmp", "the extension must be one of .png, .jpg, .jpeg, .webp; not .bmp"),
        (tmp_path / "x", "the extension must be one of .png, .jpg, .jpeg, .webp; it has none"),
        (file / "x.png", f"there is no folder {file}; it is a file"),
        (tmp_path / "folder.png", "this is a folder; name a file"),
        (Path("/proc/x.png"), "can't be written"),
    ):
        said = refused(capsys, *command, "-o", str(output))
        assert says in said
        assert len(said.splitlines()) == 1


def test_numbered_outputs_are_checked_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x-1.png").mkdir()
    said = refused(capsys, "generate", "-n", "2", "-o", str(tmp_path / "x.png"))
    assert f"{tmp_path}/x-1.png: this is a folder" in said


def test_what_was_drawn_is_told_as_json(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.webp"
    command = ["generate", "class 1", "--model", str(model), "--device", "cpu", "--steps", "4", "--json"]
    assert main([*command, "--seed", "3", "-n", "2", "-o", str(out)]) == 0
    said = capsys.readouterr()
    told: dict[str, Any] = json.loads(said.out)
    assert {name: told[name] for name in ("task", "model", "warnings", "server", "job")} == {
        "task": "generate", "model": "random", "warnings": [], "server": None, "job": None,
    }  # fmt: skip
    assert [(one["path"], one["width"], one["height"]) for one in told["pictures"]] == [
        (str(tmp_path / "a-0.webp"), 16, 16), (str(tmp_path / "a-1.webp"), 16, 16),
    ]  # fmt: skip
    assert told["pictures"][0]["seed"] == 3
    assert Image.open(told["pictures"][1]["path"]).format == "WEBP"
    assert "\x1b" not in said.err


def test_an_error_is_told_as_json_too(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "a.png")
    assert main(["generate", "clas 1", "--model", str(model), "--device", "cpu", "--json", "-o", out]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["field"]) == ("unknown_class", "class")
    assert "class 1" in error["message"]
    assert main(["generate", "--model", "demmo", "--json", "-o", out]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["message"].endswith("did you mean demo?")


def test_near_matches_of_a_command_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no command generat; did you mean generate?" in refused(capsys, "generat")
    assert "there is no command qqqq; see --help" in refused(capsys, "qqqq")


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    [version] = [
        line for line in (REPOSITORY / "pyproject.toml").read_text().splitlines() if line.startswith("version")
    ]
    number = version.split('"')[1]
    assert capsys.readouterr().out == f"arpg {number}\n"
