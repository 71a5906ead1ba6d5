"""The commands that draw without a server: outpaint, expand and vary, with recipes that draw the files again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.cli.main import main
from service.tasks.pictures import recipe
from service.tasks.pictures.images import encode
from tests.cli.verifying import pixels_of
from tests.support.api import half_mask, noise, png
from tests.support.tiny import random_folder

PICTURE = noise(20, 26)  # 2.5 pixels a token: 8×10 tokens


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(png(PICTURE))
    return path


SEED = 2**63 - 1


def run(model: Path, out: Path, *arguments: str) -> np.ndarray:
    common = ["--model", str(model), "--device", "cpu", "--seed", str(SEED), "--steps", "5", "-o", str(out)]
    assert main([*arguments, *common]) == 0
    return np.asarray(Image.open(out))


def verified(model: Path, out: Path) -> bool:
    """As a whole, or as far as the recipe of a composite tells."""
    return main(["verify", str(out), "--model", str(model)]) in (0, 3)


def test_outpainting_keeps_the_pictures_pixels(model: Path, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "wide.png"
    shown = run(model, out, "outpaint", str(picture), "--class", "class 1", "--left", "1", "--right", "6")
    assert shown.shape == (20, 2 + 26 + 7, 3)
    assert np.array_equal(shown[:, 2:28], PICTURE)
    assert verified(model, out)


def test_a_picture_of_four_to_one_is_outpainted(model: Path, tmp_path: Path) -> None:
    banner, out = noise(16, 64), tmp_path / "square.png"
    path = tmp_path / "banner.png"
    path.write_bytes(png(banner))
    shown = run(model, out, "outpaint", str(path), "--class", "class 1", "--up", "20", "--down", "28")
    assert shown.shape == (64, 64, 3)
    assert np.array_equal(shown[20:36], banner)
    assert verified(model, out)


@pytest.mark.parametrize("method", ["ntk", "windowed"])
def test_an_expansion_has_the_size_asked_for(model: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "large.png"
    shown = run(model, out, "expand", "class 1", "--width", "40", "--height", "16", "--method", method)
    assert shown.shape == (16, 40, 3)
    told = recipe.read(recipe.text_of(out.read_bytes()))
    assert (bool(told.windows), told.seed) == (method == "windowed", SEED)
    assert verified(model, out)


def test_variations_keep_the_same_tokens(model: Path, picture: Path, tmp_path: Path) -> None:
    main(["vary", str(picture), "--model", str(model), "--device", "cpu", "--keep", "0.5", "--steps", "5", "-n", "2",
          "--seed", "3", "-o", str(tmp_path / "v.png")])  # fmt: skip
    told = [recipe.read(recipe.text_of((tmp_path / f"v-{index}.png").read_bytes())) for index in (0, 1)]
    assert np.array_equal(told[0].known, told[1].known)
    assert told[0].known.sum() == 32
    assert told[0].composited, "at another size, its pixels are resized"
    assert np.array_equal(told[0].tokens[told[0].known], told[1].tokens[told[1].known])
    assert not np.array_equal(told[0].tokens, told[1].tokens)
    # The second one alone, by its own seed.
    seed, out = str(told[1].seed), tmp_path / "alone.png"
    arguments = ["--keep", "0.5", "--keep-seed", "3", "--steps", "5", "--seed", seed, "-o", str(out)]
    assert main(["vary", str(picture), "--model", str(model), "--device", "cpu", *arguments]) == 0
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(tmp_path / "v-1.png")))
    assert verified(model, out)


def test_what_was_drawn_is_edited_by_its_own_tokens(model: Path, tmp_path: Path) -> None:
    first, out = tmp_path / "first.png", tmp_path / "second.png"
    run(model, first, "generate", "class 1")
    run(model, out, "vary", str(first), "--keep", "0.5")
    theirs, ours = (recipe.read(recipe.text_of(path.read_bytes())) for path in (first, out))
    assert np.array_equal(ours.tokens[ours.known], theirs.tokens[ours.known])
    assert not ours.composited, "of the model's own size, its pixels are its tokens'"
    assert verified(model, out)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["outpaint", "PICTURE"], 1, "left: left, right, up and down are all 0"),
        (["outpaint", "PICTURE", "--right", "500"], 1, "right: the canvas would have"),
        (["outpaint", "PICTURE", "--left", "-3"], 2, "argument --left: Input should be greater"),
        (["expand", "--width", "33", "--height", "16"], 1, "width: must be whole tokens of 2 pixels; the nearest are"),
        (["expand", "--width", "32"], 2, "--height"),
        (["vary", "PICTURE", "--keep", "1"], 2, "argument --keep: Input should be less"),
        (["vary", "nowhere.png"], 2, "argument image: there is no file nowhere.png"),
        (["vary", __file__], 1, "arpg: image: "),
        (["generate", "zzz"], 1, "class: the model has no such class; its classes are class 0, class 1, "),
        (["generate", "--prompt", "a mug"], 1, "reads no text; send class, one of class 0, class 1, "),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_line(
    model: Path, picture: Path, arguments: list[str], status: int, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [str(picture) if argument == "PICTURE" else argument for argument in arguments]
    try:
        ended: int | str | None = main([*given, "--model", str(model), "--device", "cpu"])
    except SystemExit as exit:
        ended = exit.code
    said = capfd.readouterr().err
    assert (ended, says in said) == (status, True), said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes text: twelve tokens of it."""
    folder = tmp_path_factory.mktemp("words")
    return random_folder(folder, family="llamagen-t2i", name="words", grid=(4, 4), text_encoder=True)


@pytest.fixture(scope="module")
def any_order(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that edits, too."""
    folder = tmp_path_factory.mktemp("any-order")
    return random_folder(folder, family="arpg-t2i", name="any-order", grid=(8, 8), text_encoder=True)


def test_a_prompt_is_drawn_and_verified_without_a_server(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "mug.png", ["--model", str(words), "--device", "cpu"]
    prompt = ["--prompt", "a purple mug on a green floor next to one orange cone and a cat", "--negative-prompt", "sky"]
    assert main(["generate", *prompt, *model, "--seed", "3", "-o", str(out)]) == 0
    assert "arpg: warning: the prompt is too long; the model does not read its end: “" in capsys.readouterr().err
    told = recipe.read(recipe.text_of(out.read_bytes()))
    assert [told.prompt, told.negative_prompt] == [prompt[1], prompt[3]]
    assert main(["verify", str(out), *model]) == 0
    assert f'generate, prompt "{prompt[1]}", not "sky", seed 3' in capsys.readouterr().out
    # Another text is another picture.
    other = encode(pixels_of(out.read_bytes()), "png", text={recipe.KEYWORD: told_otherwise(out.read_bytes())})
    out.write_bytes(other)
    assert main(["verify", str(out), *model]) == 1


def test_the_name_of_a_class_is_a_prompt(words: Path, tmp_path: Path) -> None:
    common = ["--model", str(words), "--device", "cpu", "--seed", "3", "-o"]
    by_name, by_prompt = tmp_path / "name.png", tmp_path / "prompt.png"
    assert main(["generate", "orange_cone", *common, str(by_name)]) == 0
    assert main(["generate", "--prompt", "orange cone", *common, str(by_prompt)]) == 0
    assert recipe.read(recipe.text_of(by_name.read_bytes())).prompt == "orange cone"
    assert by_name.read_bytes() == by_prompt.read_bytes()


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--prompt", "a zürich mug"],
        ["generate", "zürich"],
        ["inpaint", "PICTURE", "MASK", "--prompt", "a zürich mug", "--negative-prompt", "sky"],
        ["outpaint", "PICTURE", "--right", "6", "--class", "zürich"],
        ["vary", "PICTURE", "--keep", "0.5", "--prompt", "zürich"],
        ["expand", "zürich", "--width", "24", "--height", "16"],
    ],
)
def test_every_command_draws_and_edits_by_prompt_and_names_unknown_words(
    any_order: Path, picture: Path, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    mask, out = tmp_path / "mask.png", tmp_path / "out.png"
    mask.write_bytes(png(half_mask(20, 26)))
    files = {"PICTURE": str(picture), "MASK": str(mask)}
    run(any_order, out, *(files.get(argument, argument) for argument in command))
    assert "arpg: warning: the model does not know some words of the prompt: “zürich”" in capsys.readouterr().err
    assert "zürich" in (recipe.read(recipe.text_of(out.read_bytes())).prompt or "")
    assert verified(any_order, out)


def told_otherwise(file: bytes) -> str:
    return json.dumps(json.loads(recipe.text_of(file) or "") | {"prompt": "a red ball"})


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["3"], 1, "class: words takes text and has no list of classes; send prompt"),
        (["mushroom", "--prompt", "x"], 1, "class: words draws what prompt says; leave class out"),
        (["--negative-prompt", "x"], 1, "negative_prompt: guidance leads from it to the prompt"),
        (["--prompt", " "], 2, "argument --prompt: must not be empty"),
        (["--prompt", "\udce4"], 2, "argument --prompt: "),
        (["--prompt", "房子"], 1, "prompt: nothing is left of it"),
    ],
)
def test_a_text_that_is_no_prompt_is_refused_by_its_option(
    words: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, said: str
) -> None:
    try:
        ended = main(["generate", *arguments, "--model", str(words), "--device", "cpu"])
    except SystemExit as exit:
        ended = int(exit.code or 0)
    assert (ended, said in capsys.readouterr().err) == (status, True)
