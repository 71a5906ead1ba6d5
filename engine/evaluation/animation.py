"""`arpg evaluate animation`: pictures while they are drawn, as an animated WebP."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from engine.core.engine import Engine
from engine.evaluation.asking import asking_with
from engine.evaluation.figures import moments
from engine.evaluation.scenes.sheets import captioned_sheet
from engine.request import Request

FRAME, BREATH, HOLD = 90, 400, 3000
"""Milliseconds that a frame is shown, the frame before the finished pictures, and the finished pictures."""


def animation(options: argparse.Namespace) -> None:
    """All pictures side by side, step by step, each above its prompt."""
    engine = Engine.load(options.model, device=options.device)
    chosen = asdict(engine.model.defaults_of("generate")) | ({} if options.steps is None else {"steps": options.steps})
    requests = [
        Request(**asking_with(engine, prompt), seed=options.seed + i, **chosen)
        for i, prompt in enumerate(options.prompts)
    ]
    drawn = [moments(engine, request, options.frames) for request in requests]
    sheets = [
        captioned_sheet(list(zip(pictures, options.prompts, strict=True)), options.columns)
        for pictures in zip(*drawn, strict=True)
    ]
    save_animation(sheets, options.out, options.quality)
    print(options.out)


def save_animation(sheets: Sequence[Image.Image], path: Path, quality: int) -> None:
    """An endless WebP, which holds its last sheet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = [FRAME] * (len(sheets) - 2) + [BREATH] * (len(sheets) > 1) + [HOLD]
    sheets[0].save(
        path, save_all=True, append_images=list(sheets[1:]), duration=times, loop=0, quality=quality, method=6
    )


COMMANDS = {"animation": animation}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    drawing = commands.add_parser("animation", help="pictures while they are drawn, as an animated WebP")
    drawing.add_argument("prompts", nargs="+", metavar="PROMPT", help="a picture for each")
    drawing.add_argument("--seed", type=int, default=0, help="the seed of the first picture; the next has the next (0)")
    drawing.add_argument("--steps", type=int, help="of each picture; default: the model's")
    drawing.add_argument("--columns", type=int, default=4, help="pictures side by side (4)")
    drawing.add_argument("--frames", type=int, default=32, help="evenly spaced in steps (32)")
    drawing.add_argument("--quality", type=int, default=60, help="of the WebP, 1 to 100 (60)")
    drawing.add_argument("--out", type=Path, default=Path("animation.webp"), help="the file to write (%(default)s)")
