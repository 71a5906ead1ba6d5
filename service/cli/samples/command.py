"""`arpg evaluate samples`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.card import SETTINGS, ModelCard
from engine.core.engine import Engine
from engine.evaluation.adm import drawing
from engine.evaluation.adm.inception import load_inception
from engine.evaluation.adm.measuring import Figures, ReferenceFile, ReferenceFileError, measure
from engine.evaluation.adm.papers import PAPERS, Paper, PaperError
from engine.evaluation.adm.sample_set import SampleSet, only_run
from engine.evaluation.adm.sample_spec import BATCH, SHARD, SampleError, SampleSpec
from engine.models.checkpoint import CheckpointError
from engine.ops.choice import DeviceError, choose_device
from engine.request import MAX_SEED, RequestError
from service.cli.options import add_option, flag
from service.cli.parser import Parser
from service.cli.samples import through_server
from service.client import APIError
from service.tasks.generate import GenerateRequest

DESCRIPTION = f"""
Draws pictures of a model of classes, the same number of each class, and writes them as the .npz file that ADM's
evaluation suite reads (github.com/openai/guided-diffusion, evaluations). With --reference and --inception it also
computes FID, Inception Score, precision and recall.

Pictures are stored in files of up to {BATCH * SHARD}. A run that was stopped goes on with the same command.
50,000 pictures of 256 pixels take 10 GB in these files, and 10 GB in the .npz.
"""
EPILOG = "A setting that is left out is the paper's, or else the model's default."
COUNT = 50_000
OPTIONS = tuple(name for name in SETTINGS if name != "order")
EXPECTED = (
    SampleError, PaperError, ReferenceFileError, CheckpointError, DeviceError, RequestError, APIError, OSError,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 well, 1 something failed, 2 it was asked for wrongly, 130 it was stopped."""
    parser = _parser()
    options = parser.parse_args(arguments)
    given = _settings(parser, options)
    if (options.reference is None) != (options.inception is None):
        parser.error("--reference and --inception are needed together, or neither")
    try:
        _run(options, given)
    except KeyboardInterrupt:
        _say("stopped; the same command goes on")
        return 130
    except EXPECTED as error:
        _say(f"arpg: {error}")
        return 1
    return 0


def _run(options: argparse.Namespace, given: dict[str, Any]) -> None:
    paper = PAPERS.get(options.paper)
    folder: Path = options.out or Path("runs/adm") / (options.paper or Path(options.model).name)
    # Loaded first: a file that does not fit is told before the pictures are drawn.
    measuring = None if options.reference is None else _measuring(options)
    with only_run(folder):
        samples = (_drawn_here if options.server is None else _drawn_by_server)(options, folder, paper, given)
        _say(f"{samples.write_npz()}: {samples.spec.count} pictures")
        if measuring is not None:
            _tell(measuring(samples), paper, folder)


def _drawn_here(options: argparse.Namespace, folder: Path, paper: Paper | None, given: dict[str, Any]) -> SampleSet:
    engine = Engine.load(options.model, device=options.device)
    samples = _sample_set(options, folder, paper, given, engine.model)
    drawing.draw(engine, samples, _progress(samples))
    return samples


def _drawn_by_server(
    options: argparse.Namespace, folder: Path, paper: Paper | None, given: dict[str, Any]
) -> SampleSet:
    with through_server.open_client(options.server, options.key, repeats=2) as client:
        card = through_server.served_card(client, options.model, given)
    samples = _sample_set(options, folder, paper, given, card)
    with through_server.open_client(options.server, options.key) as client:
        through_server.draw(client, samples, options.at_once, _progress(samples), _say)
    return samples


def _sample_set(
    options: argparse.Namespace, folder: Path, paper: Paper | None, given: dict[str, Any], card: ModelCard
) -> SampleSet:
    side = options.side
    if paper is not None:
        paper.check(card)
        given, side = {**paper.settings, **given}, side or paper.side
    return SampleSet(folder, SampleSpec.of(card, options.count, options.seed, given, side))


def _measuring(options: argparse.Namespace) -> Callable[[SampleSet], Figures]:
    reference = ReferenceFile.load(options.reference)
    network = load_inception(options.inception, choose_device(options.device))
    return lambda samples: measure(network, samples.pictures(), reference)


def _tell(figures: Figures, paper: Paper | None, folder: Path) -> None:
    print("| | FID | IS | precision | recall |\n|---|---|---|---|---|")
    row = (figures.fid, figures.inception_score, figures.precision, figures.recall)
    print(f"| {figures.pictures:,} samples | {' | '.join('-' if value is None else f'{value:.3f}' for value in row)} |")
    if paper is not None:
        score = "-" if paper.inception_score is None else f"{paper.inception_score}"
        print(f"| published ({paper.source}) | {paper.fid} | {score} | - | - |")
    for note in figures.notes:
        print(f"\n{note}")
    path = folder / "figures.json"
    path.write_text(json.dumps(asdict(figures), indent=1), encoding="utf-8")
    _say(f"{path}")


def _progress(samples: SampleSet) -> Callable[[], None]:
    began, before = time.monotonic(), samples.stored
    if before:
        _say(f"going on: {before:,} of {samples.spec.count:,} pictures are stored")

    def tell() -> None:
        stored = samples.stored
        rate = (stored - before) / (time.monotonic() - began)
        _say(f"{stored:,} of {samples.spec.count:,} pictures, {rate:.2f} a second")

    return tell


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _settings(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """The given ones. Ends the command with status 2 where the API would reject one."""
    given = {name: value for name, value in vars(options).items() if name in OPTIONS}
    try:
        GenerateRequest.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        parser.error(f"argument {flag(str(first['loc'][0]))}: {first['msg']}")
    return given


def _natural(text: str) -> int:
    return _whole(text, 0)


def _positive(text: str) -> int:
    return _whole(text, 1)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not least <= number <= MAX_SEED:
        raise argparse.ArgumentTypeError(f"must be a whole number between {least} and {MAX_SEED}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "arpg evaluate samples",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", help="a name that `arpg models` lists, or a model folder; with --server its name there"
    )
    parser.add_argument(
        "--count", type=_natural, default=COUNT, help="pictures, a multiple of the classes (%(default)s)"
    )
    parser.add_argument("--seed", type=_natural, default=0, help="the seed of the samples (%(default)s)")
    parser.add_argument("--paper", choices=PAPERS, metavar="NAME", help=f"the settings of a paper: {', '.join(PAPERS)}")
    parser.add_argument(
        "--side", type=_positive, help="side of the stored pictures in pixels; default: the paper's, else as drawn"
    )
    parser.add_argument("--out", type=Path, help="the folder of the samples (runs/adm/NAME)")
    parser.add_argument("--server", metavar="URL", help="draw through this server, with all of its workers")
    parser.add_argument("--api-key", "--key", dest="key", metavar="KEY", help="its API key (ARPG_API_KEY)")
    parser.add_argument(
        "--at-once",
        type=_positive,
        default=16,
        help=f"jobs of {BATCH} pictures that are in the server's queue at once (%(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 …; default: the GPU where there is one")
    parser.add_argument("--reference", type=Path, help="a reference batch, such as VIRTUAL_imagenet256_labeled.npz")
    parser.add_argument("--inception", type=Path, help="pytorch-fid's pt_inception-2015-12-05-6726825d.pth")
    for name in OPTIONS:
        add_option(parser, name, GenerateRequest.model_fields[name])
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
