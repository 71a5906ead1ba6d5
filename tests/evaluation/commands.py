"""For tests of `arpg evaluate`: a world and a model of noise; what the commands say of them means nothing, but they say
it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.evaluation.__main__ import main
from engine.training.__main__ import CLASSIFIER, DEMO
from engine.training.world.shapes import THINGS
from tests.support.tiny import random_folder


def noise(runs: Path) -> Path:
    """Fill a folder with renders of 16×16 pixels, codes, weights and, in `model`, a model that draws 8×8 tokens."""
    (runs / "world").mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        np.save(runs / "world" / f"{split}-0000.npy", rng.integers(0, 256, (32, 16, 16, 3), np.uint8))
    np.save(runs / "codes.npy", rng.integers(0, 64, (64, 64)).astype(np.int16))
    model = random_folder(runs / "model", num_classes=len(THINGS))
    shutil.copy(DEMO / CLASSIFIER, model / CLASSIFIER)
    shutil.copy(model / "arpg.safetensors", runs / "arpg-000010.safetensors")
    return runs


def say(runs: Path, capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What `arpg evaluate` prints about the noise."""
    places = ["--runs", str(runs), "--model", str(runs / "model"), "--figures", str(runs / "figures")]
    assert main([*places, *command]) == 0
    return capsys.readouterr().out
