"""`arpg evaluate`: measures a demo model, one command for each question. Samples are kept under --runs and drawn once.

quality: the default settings against held-out renders.  sweep: settings against each other.  curve: what training
improved.  sheet, strip, animation: pictures to look at.  editing, prefill, expand: tasks beyond generating.
scene-classifier, scene-tokenizer, scene-sheet, prompts, score, panoramas: scenes, prompts, and what pictures show of
them.  samples: pictures and figures as the papers have them (`arpg evaluate samples --help`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from engine.core.engine import Engine
from engine.evaluation import animation, tasks
from engine.evaluation.asking import asking_for
from engine.evaluation.curve import held_out_loss, kept_weights, model_with
from engine.evaluation.figures import contact_sheet, moments, plot_curve, plot_quality, plot_sweep
from engine.evaluation.quality import Reference, check_copying, measure, measure_tokenizer
from engine.evaluation.samples import draw, reconstruct
from engine.evaluation.scenes import commands as scenes
from engine.evaluation.sweep import point, sweep, table
from engine.request import Request
from engine.training.classifier import Classifier, load_classifier
from engine.training.codes import load_codes
from engine.training.demos import DEMO, classifier_of
from engine.training.world.renders import load_split
from engine.training.world.shapes import THINGS

NUMBERS: dict[str, Callable[[str], int | float]] = {
    "steps": int,
    "guidance_scale": float,
    "temperature": float,
    "top_k": int,
    "top_p": float,
}
WORDS = {
    "schedule": ("arccos", "cosine"),
    "guidance_schedule": ("linear", "constant"),
    "content_attention": ("blockwise", "causal"),
}
STEP_SWEEP = {
    "steps": (8, 16, 32, 64, 128, 256),
    "schedule": ("arccos", "cosine"),
    "content_attention": ("blockwise", "causal"),
}
CURVE_LOSS_PICTURES = 512

EACH = "pictures of each class (%(default)s)"
VALUES = "the values to compare"
OUT = "the file to write (%(default)s)"


def quality(options: argparse.Namespace) -> None:
    """All figures of the model card about the default settings."""
    classifier, engine = _load_classifier(options), Engine.load(options.model, device=options.device)
    count = options.each * len(THINGS)
    reference = Reference.load(options.runs / "world", classifier, count)
    real = measure(reference.validation, reference.labels, reference.test)
    tokenizer = measure_tokenizer(engine, classifier, reference)
    samples = draw(options.model, options.runs / "samples", options.each, {}, options.device)
    drawn = point({}, samples, classifier, reference)
    copying = check_copying(engine, classifier, options.runs / "world", load_codes(options.runs / "codes.npy"), samples)
    print(f"\n{count} pictures each, against as many test renders\n")
    print("| pictures | recognised | Fréchet | precision | recall |\n|---|---|---|---|---|")
    for name, q in (
        ("validation renders", real),
        ("test renders, reconstructed", tokenizer.quality),
        ("**samples**", drawn.quality),
    ):
        print(f"| {name} | {q.accuracy:.4f} | {q.frechet:.3f} | {q.precision:.3f} | {q.recall:.3f} |")
    bound = 3 * real.frechet + tokenizer.quality.frechet
    print(f"\nFréchet, 3 × real + tokenizer: {bound:.3f}; test renders recognised: {_share(reference):.4f}")
    print(f"reconstructions: PSNR {tokenizer.psnr:.2f} dB, {tokenizer.used:.1%} of the codes used")
    print(f"a picture alone {drawn.seconds:.2f} s, in a crowd {drawn.together:.2f} s, {drawn.rows:.0f} rows")
    print("nearer to a training render than 99 % of the unseen ones are:")
    for name, found in (("samples", copying.samples), ("copies", copying.copies)):
        near, agreeing = found.share_nearer(copying.unseen), found.share_agreeing(copying.unseen)
        print(f"  {name}: {near:.3f} in features, {agreeing:.3f} in tokens")
    print(", ".join(f"{name} {share:.2f}" for name, share in drawn.quality.by_class.items()))
    plot_quality(drawn.quality, copying, options.figures / "quality.png")


def compare(options: argparse.Namespace) -> None:
    axes = axes_of({name: values for name in (*NUMBERS, *WORDS) if (values := getattr(options, name))})
    classifier = _load_classifier(options)
    reference = Reference.load(options.runs / "world", classifier, options.each * len(THINGS))
    points = sweep(options.model, options.runs, classifier, reference, axes, options.each, options.device)
    print(f"\n{options.each * len(THINGS)} pictures a row\n\n{table(points)}")
    plot_sweep(points, options.figures / f"{options.name}.png")


def axes_of(given: dict[str, Any]) -> dict[str, Any]:
    """The settings to vary; if none varies, the paper's step sweep with the given ones."""
    return given if any(len(values) > 1 for values in given.values()) else STEP_SWEEP | given


def curve(options: argparse.Namespace) -> None:
    classifier, engine = _load_classifier(options), Engine.load(options.model, device=options.device)
    reference = Reference.load(options.runs / "world", classifier, options.each * len(THINGS))
    pictures, _ = load_split(options.runs / "world", "validation", limit=CURVE_LOSS_PICTURES)
    codes = reconstruct(engine, pictures)[0].flatten(1)
    found = []
    print("| step | held-out loss | recognised | Fréchet | recall |\n|---|---|---|---|---|")
    for step, weights in kept_weights(options.runs):
        with model_with(options.model, weights) as model:
            loss = held_out_loss(model, codes)
            samples = draw(model, options.runs / "samples", options.each, {}, options.device)
        q = point({}, samples, classifier, reference).quality
        found.append((step, loss, q.accuracy, q.frechet))
        print(f"| {step} | {loss:.4f} | {q.accuracy:.3f} | {q.frechet:.2f} | {q.recall:.2f} |", flush=True)
    steps, losses, shares, distances = zip(*found, strict=True)
    plot_curve(
        steps,
        {"held-out loss, nats a token": losses, "recognised": shares, "Fréchet distance": distances},
        options.figures / "curve.png",
    )


def sheet(options: argparse.Namespace) -> None:
    """A contact sheet: a column for each class, of `each` pictures."""
    engine = Engine.load(options.model, device=options.device)
    if options.kind == "samples":
        pictures = draw(options.model, options.runs / "samples", options.each, {}, options.device).pictures
    else:
        renders, _ = load_split(options.runs / "world", "validation", limit=options.each * len(THINGS))
        renders = renders.view(options.each, len(THINGS), *renders.shape[1:]).transpose(0, 1).flatten(0, 1)
        pictures = renders if options.kind == "renders" else reconstruct(engine, renders)[1]
    columns = pictures.view(len(THINGS), options.each, *pictures.shape[1:])
    rows = columns.transpose(0, 1).permute(0, 1, 3, 4, 2).flatten(0, 1).contiguous().numpy()
    names = [thing.name for thing in THINGS] if options.header else []
    _save(contact_sheet(list(rows), len(THINGS), names), options.out)


def strip(options: argparse.Namespace) -> None:
    """A contact sheet of pictures while they are drawn, one in each row."""
    engine = Engine.load(options.model, device=options.device)
    chosen = asdict(engine.model.defaults_of("generate"))
    labels = {thing.name: label for label, thing in enumerate(THINGS)}
    requests = [Request(**asking_for(engine, labels[name]), seed=options.seed, **chosen) for name in options.names]
    frames = [frame for request in requests for frame in moments(engine, request, options.moments)]
    names = [f"step {chosen['steps'] * (i + 1) // options.moments}" for i in range(options.moments)]
    _save(contact_sheet(frames, options.moments, names), options.out)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)
    print(path)


def _share(reference: Reference) -> float:
    return reference.test.share(reference.labels)


def _load_classifier(options: argparse.Namespace) -> Classifier:
    return load_classifier(classifier_of(options.model), torch.device("cpu"))


COMMANDS = {"quality": quality, "sweep": compare, "curve": curve, "sheet": sheet, "strip": strip}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="arpg evaluate", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of renders, weights and samples")
    parser.add_argument("--model", type=Path, default=DEMO, help="the model folder")
    parser.add_argument("--figures", type=Path, default=DEMO / "figures", help="folder of plots")
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("quality", help="the default settings").add_argument("--each", type=int, default=100, help=EACH)
    sweeping = commands.add_parser("sweep", help="settings against each other; by default the paper's step sweep")
    sweeping.add_argument("--each", type=int, default=20, help=EACH)
    sweeping.add_argument("--name", default="sweep", help="the name of the plot (sweep)")
    for name, kind in NUMBERS.items():
        sweeping.add_argument(_flag(name), type=kind, nargs="+", help=VALUES)
    for name, choices in WORDS.items():
        sweeping.add_argument(_flag(name), choices=choices, nargs="+", help=VALUES)
    commands.add_parser("curve", help="the weights kept along the training").add_argument(
        "--each", type=int, default=10, help=EACH
    )
    sheets = commands.add_parser("sheet", help="a contact sheet")
    sheets.add_argument("kind", choices=("samples", "renders", "reconstructions"), help="what the sheet shows")
    sheets.add_argument("--each", type=int, default=8, help=EACH)
    sheets.add_argument("--no-header", dest="header", action="store_false", help="no class names above the columns")
    sheets.add_argument("--out", type=Path, default=DEMO / "sheet.webp", help=OUT)
    strips = commands.add_parser("strip", help="pictures while they are drawn")
    strips.add_argument(
        "names", nargs="+", choices=[thing.name for thing in THINGS], metavar="CLASS", help="a row for each class"
    )
    strips.add_argument("--seed", type=int, default=0, help="the seed of every picture (0)")
    strips.add_argument("--moments", type=int, default=8, help="how many columns, evenly spaced in steps (8)")
    strips.add_argument("--out", type=Path, default=DEMO / "strip.png", help=OUT)
    animation.add_commands(commands)
    tasks.add_commands(commands)
    scenes.add_commands(commands)
    options = parser.parse_args(arguments)
    (COMMANDS | animation.COMMANDS | tasks.COMMANDS | scenes.COMMANDS)[options.command](options)
    return 0


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


if __name__ == "__main__":
    raise SystemExit(main())
