"""`arpg evaluate animation`: pictures fill up in it, and it holds the finished ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from engine.evaluation.__main__ import main
from engine.evaluation.animation import FRAME, HOLD
from engine.evaluation.figures import PAPER
from tests.support.tiny import random_folder


def blank(frame: np.ndarray) -> float:
    """The share of the upper part, above the prompts, that is not drawn yet."""
    part = frame[: frame.shape[0] // 4].astype(int)
    return float((abs(part - PAPER) < 12).all(-1).mean())


def test_an_animation_fills_two_pictures_and_holds_them(tmp_path: Path) -> None:
    model = random_folder(tmp_path / "model", family="arpg-t2i", text_encoder=True)
    out = tmp_path / "figures" / "decode.webp"
    asked = ["a red cube", "a blue mug", "--columns", "2", "--frames", "4", "--steps", "8", "--out", str(out)]
    assert main(["--model", str(model), "animation", *asked]) == 0
    frames, times = [], []
    with Image.open(out) as animated:
        assert animated.info["loop"] == 0, "it is shown again and again"
        for frame in ImageSequence.Iterator(animated):
            frames.append(np.asarray(frame.convert("RGB")))
            times.append(frame.info["duration"])
    assert len(frames) == 4
    assert times[0] == FRAME < times[2] < times[3] == HOLD
    for half in (0, 1):
        shares = [blank(np.array_split(frame, 2, axis=1)[half]) for frame in frames[:3]]
        assert shares == sorted(set(shares), reverse=True)
