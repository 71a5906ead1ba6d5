"""`arpg train`: the demo model from nothing, a command a stage: render, judge, vq, encode, arpg, export.

Every stage keeps its state under --runs and goes on from there when it is started again; `arpg judge`
then says what came of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from engine.judging.classifier import JudgeRecipe, train_judge
from engine.training.codes import encode_split, load_codes
from engine.training.export import export_model, load_tokenizer, palette
from engine.training.loop import load_checkpoint, pick_device
from engine.training.parallel import run_team
from engine.training.renders import load_split, render_split
from engine.training.tokenizer import DEMO_TOKENIZER, TokenizerRecipe, train_tokenizer
from engine.training.transformer import DEMO_ARPG, TransformerRecipe, train_transformer

GRID = (16, 16)
FIRST_CELL = 136  # the middle
HELD_OUT = 1600  # pictures in each of the validation and the test split
DEMO = Path(__file__).parent.parent / "weights" / "demo"
JUDGE = "judge.safetensors"
DEFAULTS = {
    "steps": 64,
    "schedule": "cosine",  # its first steps draw one token each
    "guidance_scale": 1.5,
    "guidance_schedule": "constant",
    "content_attention": "blockwise",
    "temperature": 0.8,
    "top_k": 0,
    "top_p": 1.0,
}


def render(options: argparse.Namespace) -> None:
    for split, count in (("train", options.count), ("validation", HELD_OUT), ("test", HELD_OUT)):
        render_split(options.runs / "world", split, count, options.processes)


def judge(options: argparse.Namespace) -> None:
    """Once: a judge that is there is kept."""
    path = options.model / JUDGE
    if not path.exists():
        recipe = JudgeRecipe()
        pictures, labels = load_split(options.runs / "world", "train", limit=recipe.renders)
        train_judge(pictures, labels, recipe, path, pick_device(options.device))


def vq(options: argparse.Namespace) -> None:
    pictures, _ = load_split(options.runs / "world", "train")
    recipe = replace(TokenizerRecipe(), steps=options.steps)
    arguments = (pictures, DEMO_TOKENIZER, recipe, options.runs / "vq.pt", pick_device(options.device))
    run_team(train_tokenizer, _processes(options), *arguments)


def encode(options: argparse.Namespace) -> None:
    """Skipped while the codes are newer than the tokenizer and there is one for every render."""
    pictures, _ = load_split(options.runs / "world", "train")
    tokenizer = load_tokenizer(_averaged(options.runs / "vq.pt"), DEMO_TOKENIZER)
    path = options.runs / "codes.npy"
    newer = path.exists() and path.stat().st_mtime > (options.runs / "vq.pt").stat().st_mtime
    if newer and len(load_codes(path)) == 2 * len(pictures):
        return
    arguments = (tokenizer, pictures, path, pick_device(options.device))
    run_team(encode_split, _processes(options), *arguments)


def arpg(options: argparse.Namespace) -> None:
    codes = load_codes(options.runs / "codes.npy")
    recipe = replace(TransformerRecipe(), steps=options.steps, compile=options.compile, first_cell=FIRST_CELL)
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


def _averaged(checkpoint: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(checkpoint, torch.device("cpu"))
    if state is None:
        raise FileNotFoundError(f"no checkpoint at {checkpoint}: run the stage before")
    return state["averaged"]


def _processes(options: argparse.Namespace) -> int:
    """Several processes pay on a CPU; an accelerator is trained on by one."""
    return options.processes if pick_device(options.device).type == "cpu" else 1


STAGES = {stage.__name__: stage for stage in (render, judge, vq, encode, arpg, export)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="arpg train", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where renders and checkpoints live")
    parser.add_argument("--model", type=Path, default=DEMO, help="the model folder")
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--processes", type=int, default=2, help="processes on a CPU")
    stages = parser.add_subparsers(dest="stage", required=True)
    stages.add_parser("render", help="draw the world").add_argument("--count", type=int, default=12288)
    stages.add_parser("judge", help="train the classifier that judges, on training renders alone")
    tokenizing = stages.add_parser("vq", help="train the tokenizer")
    tokenizing.add_argument("--steps", type=int, default=TokenizerRecipe().steps)
    stages.add_parser("encode", help="cache the token maps of all renders and their mirror images")
    training = stages.add_parser("arpg", help="train the transformer")
    training.add_argument("--steps", type=int, default=TransformerRecipe().steps)
    training.add_argument("--compile", action="store_true", help="torch.compile: a minute or two, then a third faster")
    stages.add_parser("export", help="write the model folder")
    options = parser.parse_args(arguments)
    STAGES[options.stage](options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
