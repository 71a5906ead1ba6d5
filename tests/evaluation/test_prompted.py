"""Models that take text are asked by prompt, and draw for the commands of `arpg evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from engine import Engine
from engine.evaluation.__main__ import main
from engine.evaluation.asking import asking_for, asking_with
from engine.evaluation.cached_generator import CachedGenerator
from engine.evaluation.samples import drawing_model
from engine.evaluation.scenes.drawing import TWENTY, draw_prompts
from engine.evaluation.scenes.prompts import prompts
from engine.training.loop import save_half
from engine.training.prompts.vocabulary import UNKNOWN_ID, caption_tokenizer
from engine.training.world.scenes.classifier import SCENE_CLASSIFIER, SceneClassifier
from engine.training.world.shapes import THINGS
from tests.support.tiny import random_folder

FEW_STEPS = {"steps": 3, "guidance_scale": 1.5}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of noise; draws 16×16 tokens and 32×32 pixels."""
    folder = random_folder(
        tmp_path_factory.mktemp("text"), family="arpg-t2i", grid=(16, 16), text_rows=40, text_encoder=True
    )
    torch.manual_seed(0)
    save_half(SceneClassifier().eval().state_dict(), folder / SCENE_CLASSIFIER)
    return folder


def test_a_model_is_asked_in_its_own_way(model: Path, runs: Path) -> None:
    by_text, by_class = Engine.load(model, device="cpu"), Engine.load(runs / "model", device="cpu")
    assert asking_for(by_class, 3) == {"class_label": 3}
    assert by_text.text_encoder is not None
    assert asking_for(by_text, 3) == {"prompt": by_text.text_encoder.encode(THINGS[3].name)}
    assert asking_for(by_class, None) == asking_for(by_text, None) == {}
    with pytest.raises(SystemExit, match="takes classes, not prompts"):
        asking_with(by_class, "a mug")


def test_a_prompt_is_drawn_once_by_each_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = CachedGenerator(model, tmp_path / "kept", "cpu")
    settings = generator.settings(**FEW_STEPS)
    first = draw_prompts(generator, ["a mug", "a tree"], settings)
    assert first.shape == (2, 32, 32, 3)
    assert (first[0] != first[1]).any()
    other = draw_prompts(generator, ["a mug", "a house"], settings)
    assert np.array_equal(other[0], first[0])
    assert (other[1] != first[1]).any()
    monkeypatch.setattr(Engine, "step", None)
    assert np.array_equal(draw_prompts(generator, ["a mug", "a tree"], settings), first)


def test_another_text_encoder_is_another_model(model: Path, tmp_path: Path) -> None:
    description = json.loads((model / "model.json").read_text())
    files = [description["weights"], *description["text_encoder"].values()]
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes((model / file).read_bytes())
    (tmp_path / "model.json").write_text(json.dumps(description))
    assert drawing_model(tmp_path) == drawing_model(model)
    weights = tmp_path / description["text_encoder"]["weights"]
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights)
    assert drawing_model(tmp_path) != drawing_model(model)


def test_the_commands_draw_prompts(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--runs", str(tmp_path), "--model", str(model)]
    assert main([*places, "score", "--count", "5", "--steps", "2", "3", "--guidance-scale", "2"]) == 0
    said = capsys.readouterr().out
    assert "steps 2, guidance_scale 2.0" in said
    assert "steps 3, guidance_scale 2.0" in said
    assert said.count("| left and right | 1 |") == 2
    sheets = {}
    for flag in ((), ("--no-captions",)):
        path = tmp_path / f"sheet{len(flag)}.png"
        assert (
            main([*places, "prompt-sheet", "a mug", "a tree", "a house", "--columns", "2", *flag, "--out", str(path)])
            == 0
        )
        sheets[flag] = Image.open(path)
    assert sheets[()].size[0] == sheets["--no-captions",].size[0] == 2 * 36 + 4
    assert sheets[()].size[1] > sheets["--no-captions",].size[1] == 2 * 36 + 4


def test_every_prompt_of_the_evaluation_is_in_the_vocabulary() -> None:
    tokenizer = caption_tokenizer()
    for text in (*TWENTY, *(prompt.text for prompt in prompts())):
        assert UNKNOWN_ID not in tokenizer.encode(text).ids, text
