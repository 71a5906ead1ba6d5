"""The demo model from nothing, a command a stage: render, vq, encode, arpg, export, then sheet and judge.

Every stage keeps its state under --runs and goes on from there when it is started again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine import Engine, Request
from engine.training.codes import encode_pictures, encode_split, load_codes
from engine.training.export import export_model, load_tokenizer, palette
from engine.training.judge import JudgeRecipe, accuracy, train_judge
from engine.training.loop import load_checkpoint, pick_device
from engine.training.parallel import run_team
from engine.training.renders import load_split, render_split, to_bytes
from engine.training.shapes import THINGS
from engine.training.sheet import contact_sheet
from engine.training.tokenizer import DEMO_TOKENIZER, TokenizerRecipe, train_tokenizer
from engine.training.transformer import DEMO_ARPG, TransformerRecipe, train_transformer

GRID = (16, 16)
FIRST_CELL = 136  # the middle
HELD_OUT = 1600  # pictures in each of the validation and the test split
DEMO = Path(__file__).parent.parent / "weights" / "demo"
DEFAULTS = {
    "steps": 64,
    "schedule": "cosine",  # its first steps draw one token each
    "guidance_scale": 2.5,
    "guidance_schedule": "constant",
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
}


def render(options: argparse.Namespace) -> None:
    for split, count in (("train", options.count), ("validation", HELD_OUT), ("test", HELD_OUT)):
        render_split(options.runs / "world", split, count, options.processes)


def vq(options: argparse.Namespace) -> None:
    pictures, _ = load_split(options.runs / "world", "train")
    recipe = replace(TokenizerRecipe(), steps=options.steps)
    arguments = (pictures, DEMO_TOKENIZER, recipe, options.runs / "vq.pt", pick_device(options.device))
    run_team(train_tokenizer, _processes(options), *arguments)


def encode(options: argparse.Namespace) -> None:
    pictures, _ = load_split(options.runs / "world", "train")
    tokenizer = load_tokenizer(_averaged(options.runs / "vq.pt"), DEMO_TOKENIZER)
    arguments = (tokenizer, pictures, options.runs / "codes.npy", pick_device(options.device))
    run_team(encode_split, _processes(options), *arguments)


def arpg(options: argparse.Namespace) -> None:
    codes = load_codes(options.runs / "codes.npy")
    recipe = replace(
        TransformerRecipe(),
        steps=options.steps,
        compile=options.compile,
        average=options.average,
        first_cell=FIRST_CELL,
    )
    arguments = (codes, DEMO_ARPG, GRID, recipe, options.runs / "arpg.pt", pick_device(options.device))
    run_team(train_transformer, _processes(options), *arguments)


def export(options: argparse.Namespace) -> None:
    pictures, _ = load_split(options.runs / "world", "train", limit=4096)
    codes = load_codes(options.runs / "codes.npy")[: len(pictures)]
    export_model(
        options.model,
        tokenizer=_averaged(options.runs / "vq.pt"),
        tokenizer_config=DEMO_TOKENIZER,
        transformer=_averaged(options.runs / "arpg.pt"),
        transformer_config=DEMO_ARPG,
        grid=GRID,
        first_cell=FIRST_CELL,
        patches=palette(codes, pictures, DEMO_TOKENIZER),
        defaults=DEFAULTS,
    )


@torch.inference_mode()
def sheet(options: argparse.Namespace) -> None:
    """A PNG of renders, of renders over their reconstructions, or of samples."""
    out = options.out or options.runs / "sheets" / f"{options.kind}.png"
    captions = None
    if options.kind == "samples":
        columns, each = len(THINGS) // 2, options.each
        drawn = draw(options, each)
        places = [(label, i) for half in (0, 8) for i in range(each) for label in range(half, half + 8)]
        pictures = [drawn[label * each + i] for label, i in places]
        captions = [THINGS[label].name for label, _ in places]
    else:
        renders, _ = load_split(options.runs / "world", "validation", limit=32)
        columns, pictures = 8, list(renders.permute(0, 2, 3, 1).numpy())
    if options.kind == "vq":
        tokenizer = load_tokenizer(_averaged(options.runs / "vq.pt"), DEMO_TOKENIZER)
        codes = encode_pictures(tokenizer, renders, torch.device("cpu")).view(-1, *GRID)
        decoded = list(to_bytes(tokenizer.decode(codes.long())).permute(0, 2, 3, 1).numpy())
        pictures = [p for row in range(0, 32, 8) for p in (*pictures[row : row + 8], *decoded[row : row + 8])]
    out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures, columns, captions).save(out)
    print(out)


@torch.inference_mode()
def judge(options: argparse.Namespace) -> None:
    """What the classifier makes of held-out renders, of their reconstructions and of samples."""
    device = pick_device(options.device)
    train, labels = load_split(options.runs / "world", "train")
    with torch.inference_mode(False):
        referee = train_judge(train, labels, JudgeRecipe(), options.runs / "judge.pt", device)
    renders, truth = load_split(options.runs / "world", "test")
    print(f"test renders      {accuracy(referee, renders, truth)[0]:.4f} of {len(renders)}")
    engine = Engine.load(options.model, device=options.device)
    pictures = list(renders.permute(0, 2, 3, 1).numpy())
    decoded = [engine.codec.decode(engine.codec.encode(picture)) for picture in pictures]
    noise = np.mean((np.stack(decoded).astype(np.float32) - np.stack(pictures)) ** 2, axis=(1, 2, 3))
    decibels = (10 * np.log10(255**2 / noise)).mean()
    print(f"reconstructions   {accuracy(referee, _tensor(decoded), truth)[0]:.4f}, PSNR {decibels:.2f} dB")
    samples = draw(options, options.each)
    asked = torch.arange(len(THINGS)).repeat_interleave(options.each)
    share, by_class = accuracy(referee, _tensor(samples), asked)
    print(f"samples           {share:.4f} of {len(samples)}")
    print(", ".join(f"{name} {value:.2f}" for name, value in by_class.items()))


def draw(options: argparse.Namespace, each: int) -> list[np.ndarray]:
    """Samples of the model folder, `each` of every class in label order, seeds 0 … each - 1."""
    engine = Engine.load(options.model, device=options.device)
    chosen = _defaults(engine) | {k: v for k, v in vars(options).items() if k in DEFAULTS and v is not None}
    requests = [Request(class_label=label, seed=seed, **chosen) for label in range(len(THINGS)) for seed in range(each)]
    return [engine.codec.decode(tokens) for tokens in engine.generate(requests)]


def _defaults(engine: Engine) -> dict[str, Any]:
    return {name: getattr(engine.model.defaults, name) for name in DEFAULTS}


def _tensor(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _averaged(checkpoint: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(checkpoint, torch.device("cpu"))
    if state is None:
        raise FileNotFoundError(f"no checkpoint at {checkpoint}: run the stage before")
    return state["averaged"]


def _processes(options: argparse.Namespace) -> int:
    """Several processes pay on a CPU; an accelerator is trained on by one."""
    return options.processes if pick_device(options.device).type == "cpu" else 1


STAGES = {stage.__name__: stage for stage in (render, vq, encode, arpg, export, sheet, judge)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.training", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where renders and checkpoints live")
    parser.add_argument("--model", type=Path, default=DEMO, help="the model folder")
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--processes", type=int, default=2, help="processes on a CPU")
    stages = parser.add_subparsers(dest="stage", required=True)
    stages.add_parser("render", help="draw the world").add_argument("--count", type=int, default=12288)
    tokenizing = stages.add_parser("vq", help="train the tokenizer")
    tokenizing.add_argument("--steps", type=int, default=TokenizerRecipe().steps)
    stages.add_parser("encode", help="cache the token maps of all renders and their mirror images")
    training = stages.add_parser("arpg", help="train the transformer")
    training.add_argument("--steps", type=int, default=TransformerRecipe().steps)
    training.add_argument(
        "--average", type=float, default=TransformerRecipe().average, help="decay of the averaged weights"
    )
    training.add_argument("--compile", action="store_true", help="torch.compile: a minute or two, then a third faster")
    stages.add_parser("export", help="write the model folder")
    sheets = stages.add_parser("sheet", help="a PNG to look at")
    sheets.add_argument("kind", choices=("world", "vq", "samples"))
    sheets.add_argument("--out", type=Path)
    judging = stages.add_parser("judge", help="train the classifier once, then judge the model folder")
    for command, each in ((sheets, 2), (judging, 10)):
        command.add_argument("--each", type=int, default=each, help="samples a class")
        command.add_argument("--steps", type=int)
        command.add_argument("--schedule", choices=("arccos", "cosine"))
        command.add_argument("--guidance-scale", type=float)
        command.add_argument("--guidance-schedule", choices=("linear", "constant"))
        command.add_argument("--temperature", type=float)
        command.add_argument("--top-k", type=int)
        command.add_argument("--top-p", type=float)
    options = parser.parse_args(arguments)
    STAGES[options.stage](options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
