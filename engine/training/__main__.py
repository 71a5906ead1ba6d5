"""`arpg train`: trains the demo models from nothing, one command for each stage: render, classifier, vq, encode, arpg,
export; then llamagen, par-4x and par-16x on the same tokens. Prompts and scenes: panoramas, scene-classifier,
scene-codes; then arpg-t2i, which begins with the weights in --model, and export arpg-t2i.

Each stage stores its state under --runs and resumes from it. `arpg evaluate` measures the result.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from engine.ops.choice import choose_device
from engine.training.batches import ClassBatches, TransformerRecipe
from engine.training.classifier import ClassifierRecipe, train_classifier
from engine.training.codes import encode_split, load_codes
from engine.training.demos import CLASSIFIER, DEMO, DEMOS, WEIGHTS
from engine.training.export import TOKENIZER, export_tokenizer, export_transformer, load_tokenizer, palette
from engine.training.loop import load_checkpoint
from engine.training.parallel import run_team
from engine.training.prompts.batches import CaptionBatches, load_crops, load_singles
from engine.training.prompts.folder import export_prompted, weights_to_begin_with
from engine.training.tokenizer import DEMO_TOKENIZER, TokenizerRecipe, train_tokenizer
from engine.training.transformer import Batches, train_transformer
from engine.training.world.renders import load_split, render_split
from engine.training.world.scenes.classifier import SCENE_CLASSIFIER, SceneClassifierRecipe, train_scene_classifier
from engine.training.world.scenes.codes import encode_panoramas, reconstructed
from engine.training.world.scenes.pasting import Singles
from engine.training.world.scenes.shards import Panoramas, render_panoramas
from engine.training.world.world import scene, silhouettes

HELD_OUT = 1600  # pictures in each of the validation and the test split
HELD_OUT_PANORAMAS = 256
REGIONS = 0.5  # share of the ARPG's whole sequences that begin with the tokens outside a rectangle, or inside it


def render(options: argparse.Namespace) -> None:
    for split, count in (("train", options.count), ("validation", HELD_OUT), ("test", HELD_OUT)):
        render_split(options.runs / "world", split, count, options.processes)


def classifier(options: argparse.Namespace) -> None:
    """Does nothing if there is a trained classifier."""
    path = (options.model or DEMO) / CLASSIFIER
    if not path.exists():
        recipe = ClassifierRecipe()
        pictures, labels = load_split(options.runs / "world", "train", limit=recipe.renders)
        train_classifier(pictures, labels, recipe, path, choose_device(options.device))


def vq(options: argparse.Namespace) -> None:
    pictures, _ = load_split(options.runs / "world", "train")
    recipe = replace(TokenizerRecipe(), steps=options.steps)
    arguments = (pictures, DEMO_TOKENIZER, recipe, options.runs / "vq.pt", choose_device(options.device))
    run_team(train_tokenizer, _processes(options), *arguments)


def encode(options: argparse.Namespace) -> None:
    """Token maps by the tokenizer in training or, if none is, by that of --model. Does nothing if the codes are newer
    than the tokenizer and complete."""
    pictures, _ = load_split(options.runs / "world", "train")
    trained, path = options.runs / "vq.pt", options.runs / "codes.npy"
    weights = trained if trained.exists() else (options.model or DEMO) / TOKENIZER
    newer = path.exists() and path.stat().st_mtime > weights.stat().st_mtime
    if newer and len(load_codes(path)) == 2 * len(pictures):
        return
    tokenizer = load_tokenizer(_averaged(trained) if trained.exists() else load_file(weights), DEMO_TOKENIZER)
    arguments = (tokenizer, pictures, path, choose_device(options.device))
    run_team(encode_split, _processes(options), *arguments)


def transformer(options: argparse.Namespace) -> None:
    """The stages of the transformers."""
    demo, model = DEMOS[options.stage], options.model or WEIGHTS / DEMOS[options.stage]["name"]
    recipe = replace(TransformerRecipe(), steps=options.steps, compile=options.compile, seed=options.seed)
    if "first_cell" in demo:
        recipe = replace(recipe, first_cell=demo["first_cell"], regions=REGIONS, grid=tuple(demo["grid"]))
    else:
        recipe = replace(recipe, openings=0)  # a fixed order has the same first tokens in every batch
    batches: Batches
    first_weights = None
    if "encoder" in demo:
        singles, crops = load_singles(options.runs), load_crops(options.runs, DEMO)
        batches = CaptionBatches(singles, crops, recipe, demo["text"]["rows"])
        first_weights = weights_to_begin_with(model, DEMO, demo)
    else:
        batches = ClassBatches(load_codes(options.runs / "codes.npy"), demo["transformer"]["num_classes"], recipe)
    arguments = (batches, demo, recipe, options.runs / f"{options.stage}.pt", choose_device(options.device))
    run_team(train_transformer, _processes(options), *arguments, first_weights)


def export(options: argparse.Namespace) -> None:
    """The ARPG's folder holds the tokenizer and the palette; the other models refer to it."""
    demo = DEMOS[options.demo]
    folder = options.model or WEIGHTS / demo["name"]
    if "encoder" in demo:
        export_prompted(folder, demo, _averaged(options.runs / f"{options.demo}.pt"), DEMO_TOKENIZER)
        return
    export_transformer(folder, demo, _averaged(options.runs / f"{options.demo}.pt"), DEMO_TOKENIZER)
    if options.demo == "arpg":
        pictures, _ = load_split(options.runs / "world", "train", limit=4096)
        codes = load_codes(options.runs / "codes.npy")[: len(pictures)]
        patches = palette(codes, pictures, DEMO_TOKENIZER)
        export_tokenizer(folder, _averaged(options.runs / "vq.pt"), patches)


def panoramas(options: argparse.Namespace) -> None:
    for split, count in (("train", options.count), ("validation", HELD_OUT_PANORAMAS), ("test", HELD_OUT_PANORAMAS)):
        render_panoramas(options.runs / "panoramas", split, min(count, options.count), options.processes)


def scene_codes(options: argparse.Namespace) -> None:
    """Token maps of the crops by the tokenizer of --model."""
    device = choose_device(options.device)
    for split in ("train", "validation"):
        encode_panoramas(options.runs, options.model or DEMO, DEMO_TOKENIZER, split, device, _processes(options))


def scene_classifier(options: argparse.Namespace) -> None:
    """Does nothing if there is a trained classifier."""
    path = (options.model or DEMO) / SCENE_CLASSIFIER
    if not path.exists():
        recipe = replace(SceneClassifierRecipe(), steps=options.steps)
        device, model = choose_device(options.device), options.model or DEMO
        folder = options.runs / "panoramas"
        show = partial(reconstructed, options.runs, model, DEMO_TOKENIZER, device=device)
        wide = Panoramas.load(folder, "train", limit=recipe.panoramas)
        some = Panoramas.load(folder, "train", limit=recipe.reconstructed)
        pictures = load_split(options.runs / "world", "train", limit=recipe.singles)[0].permute(0, 2, 3, 1).numpy()
        masks = silhouettes([scene("train", index) for index in range(len(pictures))])
        panoramas = (wide, replace(some, pictures=show(some.pictures, "panoramas")))
        singles = (Singles("train", pictures, masks), Singles("train", show(pictures, "singles"), masks))
        train_scene_classifier(panoramas, singles, recipe, options.runs / "scene-classifier.pt", path, device)


def _averaged(checkpoint: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(checkpoint, torch.device("cpu"))
    if state is None:
        raise FileNotFoundError(f"no checkpoint at {checkpoint}: run the stage before")
    return state["averaged"]


def _processes(options: argparse.Namespace) -> int:
    """Several processes are faster on a CPU; an accelerator is used by one."""
    return options.processes if choose_device(options.device).type == "cpu" else 1


STEPS = "training steps (%(default)s)"
STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    **{stage.__name__: stage for stage in (render, classifier, vq, encode, export)},
    "panoramas": panoramas,
    "scene-codes": scene_codes,
    "scene-classifier": scene_classifier,
    **dict.fromkeys(DEMOS, transformer),
    "judge": classifier,  # the earlier name
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="arpg train", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where renders and checkpoints live")
    parser.add_argument("--model", type=Path, help="the model folder; default: the one that ships")
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--processes", type=int, default=2, help="how many processes train on a CPU (2)")
    stages = parser.add_subparsers(dest="stage", required=True)
    stages.add_parser("render", help="draw the world").add_argument(
        "--count", type=int, default=12288, help="pictures to draw (12288)"
    )
    stages.add_parser(
        "classifier", aliases=["judge"], help="train the classifier for arpg evaluate, on training renders only"
    )
    tokenizing = stages.add_parser("vq", help="train the tokenizer")
    tokenizing.add_argument("--steps", type=int, default=TokenizerRecipe().steps, help=STEPS)
    stages.add_parser("encode", help="cache the token maps of all renders and their mirror images")
    for name, demo in DEMOS.items():
        training = stages.add_parser(name, help=f"train the transformer of {demo['name']}")
        training.add_argument("--steps", type=int, default=TransformerRecipe().steps, help=STEPS)
        training.add_argument(
            "--seed", type=int, default=0, help="of the batches: take another where training goes on from weights (0)"
        )
        training.add_argument(
            "--compile", action="store_true", help="compile first: a minute or two, then each step is a third faster"
        )
    stages.add_parser("panoramas", help="draw the world's panoramas").add_argument(
        "--count", type=int, default=4096, help="panoramas for training; as many held out at most (%(default)s)"
    )
    stages.add_parser("scene-codes", help="cache the token maps of the panoramas' crops")
    judging = stages.add_parser("scene-classifier", help="train the classifier of scenes, on training panoramas only")
    judging.add_argument("--steps", type=int, default=SceneClassifierRecipe().steps, help=STEPS)
    exporting = stages.add_parser("export", help="write the model folder")
    exporting.add_argument("demo", nargs="?", choices=DEMOS, default="arpg", help="which demo model (arpg)")
    options = parser.parse_args(arguments)
    STAGES[options.stage](options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
