"""The commands that need no server, and what any of them says when it is asked wrongly."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.cli.main import main
from service.tasks.pictures import recipe
from tests.support.api import half_mask, noise, png
from tests.support.tiny import random_folder


def test_pictures_without_a_server(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.png"
    common = ["--model", str(model), "--device", "cpu", "--seed", "3", "--steps", "8"]
    assert main(["generate", "class 1", *common, "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}  seed 3\n"
    assert Image.open(out).size == (16, 16)

    image, mask = tmp_path / "i.webp", tmp_path / "m.png"
    Image.fromarray(noise(30, 40)).save(image, lossless=True)
    mask.write_bytes(png(half_mask(30, 40)))
    assert main(["inpaint", str(image), str(mask), *common, "-n", "2", "-o", str(tmp_path / "b.png")]) == 0
    for index in (0, 1):
        painted = np.asarray(Image.open(tmp_path / f"b-{index}.png"))
        assert np.array_equal(painted[:, 20:], noise(30, 40)[:, 20:])


def test_a_class_of_a_public_model_goes_by_its_words_without_a_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights under the published key names, with the thousand classes of ImageNet."""
    folder = random_folder(tmp_path / "arpg-l", name="arpg-l", num_classes=1000, grid=(4, 4))
    data = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(data | {"classes": "imagenet"}))
    out, common = tmp_path / "a.png", ["--model", str(folder), "--device", "cpu", "--steps", "2", "--seed", "3"]
    files = set()
    for words in ("tench", "n01440764", "0"):
        assert main(["generate", words, *common, "-o", str(out)]) == 0
        files.add(out.read_bytes())
    told = recipe.read(recipe.text_of(files.pop()))
    assert (told.model, told.class_label, told.class_name, files) == ("arpg-l", 0, "tench", set())
    capsys.readouterr()
    assert main(["generate", "crane", *common, "-o", str(out)]) == 1
    says = "arpg: class: crane may mean crane bird (label 134, n02012849) or construction crane (label 517, n03126707)"
    assert capsys.readouterr().err.startswith(says)


def test_a_model_of_a_fixed_order_without_a_server(
    raster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, common = tmp_path / "a.png", ["--model", str(raster), "--device", "cpu"]
    options = ["--guidance-interval", "4", "--top-k", "8", "--seed", "3", "-o", str(out)]
    assert main(["generate", "class 1", *common, *options]) == 0
    assert Image.open(out).size == (8, 8)
    capsys.readouterr()
    for asked, says in (
        (["generate", "--steps", "8", "--content-attention", "causal"], "steps, content_attention: raster draws in a"),
        (["inpaint", str(out), str(out)], "model: raster can't inpaint: it draws in a fixed order; it can generate"),
    ):
        if asked[0] == "inpaint":
            out.write_bytes(png(half_mask(8, 8), "RGB"))
        assert main([*asked, *common]) == 1
        assert capsys.readouterr().err.startswith(f"arpg: {says}")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["generate", "--port", "1"], 2, "arpg generate: error: unrecognized arguments: --port; "),
        (["generate", "--guidence-scale", "3"], 2, "did you mean --guidance-scale or"),
        (["generate", "--n", "2"], 2, "unrecognized arguments: --n; did you mean -n or"),
        (["generate", "a", "red", "mug"], 2, "unrecognized arguments: red mug; put words that belong together in quot"),
        (["outpaint", "--left", "8"], 2, "required: image; see arpg outpaint --help"),
        (["serve", "--port", "99999"], 2, "arpg: --port: Input should be less than or equal to 65535"),
        (["api"], 2, "set ARPG_REDIS_URL, or run `arpg serve` with the same data folder"),
        (["worker"], 2, "set ARPG_REDIS_URL, or run `arpg serve` with the same data folder"),
        (["inpaint", "nowhere.png", "mask.png"], 2, "argument image: there is no file nowhere.png; correct the path"),
        (["inpaint", __file__, "nowhere.png"], 2, "argument mask: there is no file nowhere.png"),
        (["vary", "/"], 2, "argument image: / is a folder; name a file"),
        (["inpaint", "photo.jpg"], 2, "arpg inpaint: error: a mask is needed, unless --mask-mode is alpha"),
        (["inpaint", "photo.jpg", "--mask-mode", "black"], 2, "a mask is needed"),
        (["inpaint", "nowhere.png", "--mask-mode", "alpha"], 2, "nowhere.png"),
        (["inpaint", "p.png", "m.png", "--feather", "257"], 2, "argument --feather: Input should be less"),
        (["inpaint", "p.png", "m.png", "--feather", "-1"], 2, "argument --feather: Input should be greater"),
        (["generate", "-n", "17"], 2, "arpg generate: error: argument -n: Input should be less"),
        (["generate", "-n", "0"], 2, "argument -n: Input should be greater"),
        (["generate", "--guidance-scale", "nan"], 2, "argument --guidance-scale: Input should be"),
        (
            ["generate", "--model", "a", "--model", "b"],
            1,
            "arpg: model: this command uses one model; choose one with --model: a, b",
        ),
        (["generate", "--guidance-interval", "-1"], 2, "argument --guidance-interval: Input should be greater"),
        (["--help"], 0, "arpg serve"),
        (["--help"], 0, "draw pictures of a class or of a prompt"),
        (["bench", "--help"], 0, "arpg bench serve --help"),
        (["bench", "serve", "--help"], 0, "Open loop"),
    ],
)
def test_the_command_says_what_is_wrong_in_a_line(
    arguments: list[str],
    status: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("ARPG_REDIS_URL", raising=False)
    monkeypatch.setenv("ARPG_DATA_DIR", str(tmp_path))
    try:
        ended: Any = main(arguments)
    except SystemExit as exit:
        ended = exit.code
    said = capfd.readouterr()
    assert ended == status
    assert says in said.err + said.out
    assert len(said.err.splitlines()) == (status != 0)


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "mps"])
def test_a_device_that_is_not_there_is_told_in_a_line(
    device: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.png"
    assert main(["generate", "--model", str(model), "--steps", "1", "--device", "cpu", "-o", str(out)]) == 0
    for command, status in (
        (["generate", "--model", str(model), "-o", str(out)], 1),
        (["verify", str(out), "--model", str(model)], 2),
        (["evaluate", "samples", str(model), "--count", "10", "--out", str(tmp_path)], 1),
        (["evaluate", "--device", device, "sheet", "samples", "--out", str(tmp_path / "sheet.webp")], 1),
        (["bench", "batching", "--model", str(model)], 1),
    ):
        capsys.readouterr()
        assert main([*command, *(() if device in command else ("--device", device))]) == status
        [line] = capsys.readouterr().err.splitlines()
        assert re.match("arpg: .*device: there is no", line)
        assert device in line
        assert "cpu" in line


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["bench"], ["bench", "serve"]])
def test_every_option_of_every_command_is_explained(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parsers: list[ArgumentParser] = []

    def parse_known_args(parser: ArgumentParser, *arguments: Any) -> None:
        parsers.append(parser)
        raise SystemExit

    monkeypatch.setattr(ArgumentParser, "parse_known_args", parse_known_args)
    with pytest.raises(SystemExit):
        main(command)
    found = dict(explanations(parsers[0]))
    assert len(found) > 10
    for option, explanation in found.items():
        assert explanation, option
        # The options of the drawing commands are the fields of the API's requests, where null means left out.
        assert "null" not in explanation.lower(), option
        assert not re.search("[a-z]_[a-z]", explanation), option


def explanations(parser: ArgumentParser) -> Iterator[tuple[str, str]]:
    """Each option of a command and its subcommands, with its help."""
    for action in parser._actions:
        if isinstance(action.choices, dict) and all(isinstance(c, ArgumentParser) for c in action.choices.values()):
            for command in action.choices.values():
                yield from explanations(command)
        else:
            yield f"{parser.prog} {'/'.join(action.option_strings) or action.dest}", action.help or ""
