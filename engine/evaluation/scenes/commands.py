"""The commands of `arpg evaluate` for scenes, prompts and fragments."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.core.engine import Engine
from engine.evaluation.cached_generator import CachedGenerator
from engine.evaluation.editing import Renders
from engine.evaluation.expanding import OUTPAINTED, crops, expand
from engine.evaluation.figures import contact_sheet
from engine.evaluation.metrics import frechet
from engine.evaluation.samples import reconstruct
from engine.evaluation.scenes.drawing import TWENTY, draw_prompts
from engine.evaluation.scenes.fragments import Fragments, count_fragments
from engine.evaluation.scenes.held_out import crops_of, pasted_crops, score_crops, score_singles
from engine.evaluation.scenes.prompts import CATEGORIES, PROMPTS, Prompt, prompts
from engine.evaluation.scenes.scoring import PARTS, Score, score
from engine.evaluation.scenes.seeing import see
from engine.evaluation.scenes.sheets import boxes_drawn, captioned_sheet, panorama_sheet
from engine.training.classifier import Classifier, classify, load_classifier
from engine.training.demos import DEMO, classifier_of
from engine.training.world.renders import load_split
from engine.training.world.scenes.classifier import SCENE_CLASSIFIER, SceneClassifier, load_scene_classifier
from engine.training.world.scenes.shards import Panoramas

CANVAS = (16, 64)
"""Tokens of a panorama."""
SWEPT: dict[str, Callable[[str], float]] = {
    "steps": int,
    "guidance_scale": float,
    "temperature": float,
    "top_p": float,
}


def scene_classifier(options: argparse.Namespace) -> None:
    """The scene classifier against the renderer's truth, on pictures that it has not seen."""
    classifier = _load(options)
    held_out = Panoramas.load(options.runs / "panoramas", "test", options.count)
    print("crops of panoramas\n")
    print_scores(score_crops(classifier, held_out))
    singles = load_split(options.runs / "world", "test", limit=options.singles)[0]
    _, decoded = reconstruct(Engine.load(options.model, device=options.device), singles)
    for name, shown in (("single things", singles), ("single things, reconstructed by the tokenizer", decoded)):
        print(f"\n{name}\n")
        print_scores(score_singles(classifier, "test", shown.permute(0, 2, 3, 1).contiguous().numpy()))
    whole = count_fragments(classifier, held_out.pictures)
    print(f"\nfragments are found in {whole.share:.3f} of {len(held_out)} panoramas, which have none;")
    pictures, truth = pasted_crops(held_out)
    found = count_fragments(classifier, pictures)
    said = np.array([bool(one) for one in found.fragments])
    cut = truth > 0
    print(
        f"{len(pictures)} pasted crops: a fragment is found in {said[cut].mean():.3f} of the {cut.sum()} that have one"
    )
    print(f"and in {said[~cut].mean():.3f} of the {(~cut).sum()} others")


def scene_tokenizer(options: argparse.Namespace) -> None:
    """The tokenizer's figures on crops of panoramas beside those on the world's single pictures."""
    engine = Engine.load(options.model, device=options.device)
    classifier = _own_classifier(options)
    pieces = crops_of(Panoramas.load(options.runs / "panoramas", "test"), options.count)
    singles, _ = load_split(options.runs / "world", "test", limit=options.count)
    print("| pictures | mean absolute error | PSNR, dB | Fréchet of the reconstructions |\n|---|---|---|---|")
    for name, pictures in (("single things", singles), ("crops of panoramas", pieces)):
        _, decoded = reconstruct(engine, pictures)
        error = decoded.float() - pictures.float()
        psnr = 10 * torch.log10(255**2 / error.square().mean((1, 2, 3)))
        apart = frechet(classify(classifier, pictures).features, classify(classifier, decoded).features)
        print(f"| {len(pictures)} {name} | {error.abs().mean():.2f} | {psnr.mean():.2f} | {apart:.3f} |", flush=True)


def scene_sheet(options: argparse.Namespace) -> None:
    """Panoramas with captioned crops, to look at."""
    _save(panorama_sheet("validation", options.first, options.count, options.crops), options.out)


def prompt_list(options: argparse.Namespace) -> None:
    """Write prompts as JSON lines."""
    lines = [json.dumps(prompt.to_json()) for prompt in prompts(options.count, options.seed)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n")
    print(options.out)


def prompt_scores(options: argparse.Namespace) -> None:
    """Score pictures against the prompts that they were drawn for."""
    classifier = _load(options)
    if options.pictures is not None:
        asked = [Prompt.from_json(json.loads(line)) for line in options.prompts.read_text().splitlines()]
        pictures = np.load(options.pictures)
        if len(asked) != len(pictures):
            raise SystemExit(
                f"{options.prompts} has {len(asked)} prompts and {options.pictures} {len(pictures)} pictures: "
                "give one picture for each prompt, in the same order"
            )
        print_scores(score(asked, see(classifier, pictures)))
        return
    asked, generator = prompts(options.count, options.seed), _generator(options)
    for settings in combinations(options):
        pictures = draw_prompts(generator, [one.text for one in asked], generator.settings(**settings))
        print(f"\n{', '.join(f'{name} {value}' for name, value in settings.items()) or 'default settings'}\n")
        print_scores(score(asked, see(classifier, pictures)))


def prompt_sheet(options: argparse.Namespace) -> None:
    """Pictures above their prompts."""
    asked = options.prompts or list(TWENTY)
    generator = _generator(options)
    pictures = draw_prompts(generator, asked, generator.settings(), options.seed)
    captions = asked if options.captions else [""] * len(asked)
    _save(captioned_sheet(list(zip(pictures, captions, strict=True)), options.columns), options.out)


def panoramas(options: argparse.Namespace) -> None:
    """Panoramas that the model outpaints from test renders, or those of a file, beside rendered ones."""
    scenes, own = _load(options), _own_classifier(options)
    test, validation = (
        Panoramas.load(options.runs / "panoramas", split, options.count).pictures for split in ("test", "validation")
    )
    generator = _generator(options)
    rows = {"rendered": validation, "rendered, reconstructed": generator.decode(generator.encode(test))}
    if options.pictures is not None:
        rows[options.pictures.name] = np.load(options.pictures)
    else:
        renders = Renders.load(options.runs / "world", generator, own, options.count)
        chosen = {name: value for name in SWEPT if (value := getattr(options, name)) is not None}
        settings = generator.settings("outpaint", **chosen)
        rows["**outpainted**"] = expand(CANVAS, OUTPAINTED, generator, renders, own, settings).pictures
    print("| pictures | with fragments | fragments each | things each | Fréchet of crops |\n|---|---|---|---|---|")
    reference, distances = _crop_features(own, test), []
    for name, pictures in rows.items():
        found, features = count_fragments(scenes, pictures), _crop_features(own, pictures)
        distances.append(frechet(features, reference[: len(features)]))
        figures = f"{found.share:.3f} | {found.each:.2f} | {found.others:.2f} | {distances[-1]:.2f}"
        print(f"| {len(pictures)} {name} | {figures} |", flush=True)
    print(f"\nFréchet, 3 × rendered + reconstructed: {3 * distances[0] + distances[1]:.2f}")
    if options.out is not None:
        _save(_framed(pictures, found), options.out)
    if options.sheet is not None:
        _save(contact_sheet(list(pictures[: options.shown]), 2), options.sheet)


def _crop_features(classifier: Classifier, pictures: np.ndarray) -> torch.Tensor:
    """Of as few squares as cover each picture."""
    cut = torch.from_numpy(crops(pictures, pictures.shape[1]))
    return classify(classifier, cut.permute(0, 3, 1, 2)).features


def _framed(pictures: np.ndarray, found: Fragments) -> Image.Image:
    """A sheet: things framed in white, fragments in red."""
    framed = [
        boxes_drawn(boxes_drawn(picture, [one.box for one in things], "white"), [one.box for one in cut], "red")
        for picture, things, cut in zip(pictures, found.things, found.fragments, strict=True)
    ]
    return contact_sheet(framed, 2)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)
    print(path)


def print_scores(scores: Mapping[str, Score]) -> None:
    print(f"| category | prompts | {' | '.join(PARTS)} | all right |\n|{'---|' * (len(PARTS) + 3)}")
    for category, one in scores.items():
        parts = " | ".join("-" if share is None else f"{share:.3f}" for share in one.parts.values())
        print(f"| {category} | {one.prompts} | {parts} | {one.right:.3f} |")


def combinations(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All combinations of the given values; a setting that is not given keeps the model's default."""
    given = {name: getattr(options, name) for name in SWEPT if getattr(options, name)}
    return [dict(zip(given, values, strict=True)) for values in product(*given.values())]


def _generator(options: argparse.Namespace) -> CachedGenerator:
    return CachedGenerator(options.model, options.runs / "samples", options.device)


def _own_classifier(options: argparse.Namespace) -> Classifier:
    return load_classifier(classifier_of(options.model), torch.device("cpu"))


def _load(options: argparse.Namespace) -> SceneClassifier:
    own: Path = options.model / SCENE_CLASSIFIER
    return load_scene_classifier(own if own.exists() else DEMO / SCENE_CLASSIFIER, torch.device("cpu"))


COMMANDS = {
    "scene-classifier": scene_classifier,
    "scene-tokenizer": scene_tokenizer,
    "scene-sheet": scene_sheet,
    "prompts": prompt_list,
    "score": prompt_scores,
    "prompt-sheet": prompt_sheet,
    "panoramas": panoramas,
}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    checking = commands.add_parser("scene-classifier", help="the classifier of scenes, on held-out pictures")
    checking.add_argument("--count", type=int, default=256, help="panoramas (%(default)s)")
    checking.add_argument("--singles", type=int, default=1600, help="pictures of single things (%(default)s)")
    tokenizing = commands.add_parser("scene-tokenizer", help="the tokenizer on crops of panoramas")
    tokenizing.add_argument("--count", type=int, default=512, help="pictures of each kind (%(default)s)")
    sheets = commands.add_parser("scene-sheet", help="panoramas, and crops of them with captions, to look at")
    sheets.add_argument("--count", type=int, default=8, help="panoramas (%(default)s)")
    sheets.add_argument("--first", type=int, default=0, help="the number of the first one in the validation split (0)")
    sheets.add_argument("--crops", type=int, default=5, help="crops of each (%(default)s)")
    sheets.add_argument("--out", type=Path, default=Path("runs/scenes.webp"), help="the file to write (%(default)s)")
    listing = commands.add_parser("prompts", help=f"a list of prompts: {', '.join(CATEGORIES)}")
    listing.add_argument("--count", type=int, default=PROMPTS, help="how many (%(default)s)")
    listing.add_argument("--seed", type=int, default=0, help="another seed, other prompts (0)")
    listing.add_argument("--out", type=Path, default=Path("runs/prompts.jsonl"), help="the file to write (%(default)s)")
    scoring = commands.add_parser("score", help="pictures against the prompts that they were drawn for")
    scoring.add_argument("--count", type=int, default=PROMPTS, help="how many to draw and score (%(default)s)")
    scoring.add_argument("--seed", type=int, default=0, help="another seed, other prompts (0)")
    for name, kind in SWEPT.items():
        flag = f"--{name.replace('_', '-')}"
        scoring.add_argument(flag, type=kind, nargs="+", help="values to compare; default: the model's")
    scoring.add_argument("--prompts", type=Path, help="with --pictures: the list that `prompts` wrote")
    scoring.add_argument("--pictures", type=Path, help="score these instead: an .npy file, uint8 (n, height, width, 3)")
    shown = commands.add_parser("prompt-sheet", help="pictures of prompts, to look at")
    shown.add_argument("prompts", nargs="*", help=f"default: {len(TWENTY)} of the demo's world")
    shown.add_argument("--seed", type=int, default=0, help="of the first picture; the next ones count on (0)")
    shown.add_argument("--columns", type=int, default=5, help="pictures in a row (%(default)s)")
    shown.add_argument("--no-captions", dest="captions", action="store_false", help="without the prompts")
    shown.add_argument("--out", type=Path, default=Path("runs/prompts.webp"), help="the file to write (%(default)s)")
    wide = commands.add_parser("panoramas", help="outpainted panoramas beside rendered ones")
    wide.add_argument("--count", type=int, default=64, help="test renders to outpaint (%(default)s)")
    for name, kind in SWEPT.items():
        wide.add_argument(f"--{name.replace('_', '-')}", type=kind, help="default: the model's")
    wide.add_argument("--pictures", type=Path, help="an .npy file of panoramas to measure instead")
    wide.add_argument("--out", type=Path, help="write a sheet of them: things framed in white, fragments in red")
    wide.add_argument("--sheet", type=Path, help="write a sheet of the first ones, without frames")
    wide.add_argument("--shown", type=int, default=8, help="how many the sheet without frames shows (%(default)s)")
