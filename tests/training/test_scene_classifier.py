"""The scene classifier's training: an interrupted run ends with the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.training.world.scenes import classifier as scene_classifier
from engine.training.world.scenes.classifier import (
    SceneClassifierRecipe,
    SceneLogits,
    scene_loss,
    train_scene_classifier,
)
from engine.training.world.scenes.panorama import panorama
from engine.training.world.scenes.pasting import IGNORED, Sample, Singles
from engine.training.world.scenes.shards import Panoramas
from engine.training.world.scenes.strips import render_strip
from engine.training.world.scenes.truth import NOTHING

CPU = torch.device("cpu")


def test_an_interrupted_training_resumes_and_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strip = render_strip(panorama("train", 0), 32)
    scenes = Panoramas("train", 0, strip.picture[None], strip.owners[None], np.pad(strip.areas, (0, 6))[None])
    recipe = SceneClassifierRecipe(steps=2, batch=2, warm_up=1)

    def train(name: str) -> dict[str, torch.Tensor]:
        path = tmp_path / f"{name}.safetensors"
        train_scene_classifier([scenes], [], recipe, tmp_path / f"{name}.pt", path, CPU, save_every=1)
        return dict(load_file(path))

    whole = train("whole")
    draw = scene_classifier.draw_sample
    drawn = []

    def interrupted(
        panoramas: Sequence[Panoramas], singles: Sequence[Singles], count: int, seed: int, step: int
    ) -> Sample:
        drawn.append(step)
        if drawn == [0, 1]:
            raise InterruptedError
        return draw(panoramas, singles, count, seed, step)

    monkeypatch.setattr(scene_classifier, "draw_sample", interrupted)
    with pytest.raises(InterruptedError):
        train("resumed")
    resumed = train("resumed")
    assert drawn == [0, 1, 1]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_cells_without_a_clear_answer_are_not_learnt() -> None:
    """Neither the hue of a cell without a thing, nor whether a slightly cut thing is whole."""

    def loss(hue: int, whole: int) -> float:
        logits = SceneLogits(
            torch.zeros(1, NOTHING + 1, 1, 2), torch.zeros(1, 8, 1, 2), torch.zeros(1, 1, 2), torch.zeros(1, 4),
            torch.zeros(1, 3),
        )  # fmt: skip
        logits.hues[0, 3, 0, 1] = 9.0
        logits.whole[0, 0, 1] = 9.0
        things, first = torch.tensor([[[2, NOTHING]]]), torch.tensor([[[1, 0]]])
        hues, wholes = first.clone(), first.clone()
        hues[0, 0, 1], wholes[0, 0, 1] = hue, whole
        place = torch.tensor([0])
        return scene_loss(logits, Sample(torch.zeros(0), things, hues, wholes, place, place)).item()

    assert loss(IGNORED, IGNORED) < loss(1, IGNORED)
    assert loss(IGNORED, IGNORED) < loss(IGNORED, 0)
    assert loss(3, 1) < loss(1, 0)
