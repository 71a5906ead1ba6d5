"""The `arpg` command."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service import logs
from service.cli import keys as key_commands
from service.cli import options as drawing_commands
from service.settings import Settings, set_up_logging

DESCRIPTION = "Pictures from autoregressive models that draw many tokens at once, in any order."
EPILOG = """
Every setting is also an environment variable: ARPG_MODELS, ARPG_REDIS_URL, ARPG_DATA_DIR, ARPG_GRACE …
(service/settings.py lists them); HOST and PORT work without the prefix.

  arpg keys add ann                                a key for ann; from then on every request needs one
  arpg models                                      what can be loaded by name
  arpg serve                                       the page at http://127.0.0.1:8000
  arpg serve --model demo --model path/to/folder   with two models
  arpg generate mushroom --seed 7 -o mushroom.png  a picture without a server
  arpg generate --model TEXT_MODEL --prompt "a mug on a green floor"
  arpg inpaint photo.jpg mask.png --class tree -o edited.png
  arpg outpaint photo.jpg --left 64 --right 64 -o wide.png
  arpg expand house --width 512 --height 128 --method windowed -o panorama.png
  arpg vary photo.jpg --keep 0.3 -n 4 -o again.png
  arpg verify mushroom.png                         draws it again as it says, and compares
"""

WITHOUT_ENGINE = frozenset({"api", "keys"})
"""The commands that an installation without torch has."""


LABORATORY = {
    "bench serve": "service.bench.__main__",
    "evaluate samples": "service.cli.samples.command",
    "train": "engine.training.__main__",
    "evaluate": "engine.evaluation.__main__",
    "bench": "engine.bench.__main__",
    "judge": "engine.evaluation.__main__",  # the earlier name of evaluate
}
"""The commands that parse their own arguments, and their modules; these need more packages than a service does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 well, 1 something failed, 2 it was asked for wrongly."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for words in (2, 1):  # `bench serve` before `bench`
        if (command := " ".join(given[:words])) in LABORATORY:
            return _laboratory(command, given[words:])
    parsed = _parser().parse_args(given)
    if parsed.command in drawing_commands.NAMES:
        parsed.fields = drawing_commands.checked(parsed)
    try:
        settings = Settings(**_chosen(parsed))
    except ValidationError as error:
        for problem in error.errors():
            print(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)
        return 2
    set_up_logging(settings)
    try:
        return _run(parsed, settings)
    except KeyboardInterrupt:
        return 130
    except _expected() as error:
        logs.status(f"arpg: {error}", logging.ERROR)
        return 1


def _laboratory(command: str, arguments: list[str]) -> int:
    try:
        module = importlib.import_module(LABORATORY[command])
    except ModuleNotFoundError as missing:
        print(f"arpg {command} needs {missing.name}: pip install 'arpg-serve[train]'", file=sys.stderr)
        return 1
    status: int = module.main(arguments)
    return status


def _run(parsed: argparse.Namespace, settings: Settings) -> int:
    if parsed.command not in WITHOUT_ENGINE and importlib.util.find_spec("torch") is None:
        print(f"arpg {parsed.command} needs torch: pip install 'arpg-serve[service]'", file=sys.stderr)
        return 1
    # Imported where they are needed: `arpg --help` must not wait for anything.
    if parsed.command == "models":
        from service.cli import models as listing

        return listing.models(parsed)
    if parsed.command == "verify":
        from service.cli import verify as verifying

        return verifying.verify(parsed, settings)
    if parsed.command in drawing_commands.NAMES:
        from service.cli import draw as drawing

        return drawing.draw(parsed, settings)
    if parsed.command == "keys":
        return key_commands.run(parsed, settings)
    from service.server import run as serving

    commands = {"serve": serving.serve, "api": serving.api, "worker": serving.worker}
    return commands[parsed.command](settings)


def _expected() -> tuple[type[Exception], ...]:
    """What is the caller's to mend: said in one line, without a trace."""
    from engine.request import RequestError
    from service.auth.keys import KeysError
    from service.errors import Problem
    from service.jobs import ServerUnsuitable
    from service.server.embedded import DirectoryInUse, ServerFailed, ServerNotFound
    from service.server.listen import CannotListen
    from service.tasks.pictures.errors import ImageError

    expected: tuple[type[Exception], ...] = (
        RequestError, ImageError, Problem, CannotListen, ServerUnsuitable, ServerNotFound, ServerFailed,
        DirectoryInUse, FileNotFoundError, NotADirectoryError, PermissionError, KeysError,
    )  # fmt: skip
    # Only a process that has loaded a model can fail at that.
    checkpoint = sys.modules.get("engine.models.checkpoint")
    return expected if checkpoint is None else (*expected, checkpoint.CheckpointError)


def _chosen(parsed: argparse.Namespace) -> dict[str, Any]:
    """Options that were given beat the environment."""
    names = (
        "host",
        "port",
        "models",
        "device",
        "data_dir",
        "keys_file",
        "redis_url",
        "grace",
        "metrics_port",
        "log_level",
        "log_format",
    )
    return {name: value for name in names if (value := getattr(parsed, name, None)) is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "arpg", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    serve = commands.add_parser("serve", help="page, API and a worker, with a Valkey of its own")
    api = commands.add_parser("api", help="the API alone, over ARPG_REDIS_URL or beside an `arpg serve`")
    worker = commands.add_parser("worker", help="a worker alone, over ARPG_REDIS_URL or beside an `arpg serve`")
    for command in (serve, api):
        command.add_argument("--host", help="the address to listen on; default: 127.0.0.1 (HOST)")
        command.add_argument("--port", type=int, help="the port to listen on; default: 8000 (PORT); 0 takes a free one")
    for command in (serve, api, worker):
        command.add_argument("--redis-url", help="the Redis to use: redis://, rediss:// or unix:// (ARPG_REDIS_URL)")
        command.add_argument("--data-dir", type=Path, help="where `arpg serve` keeps its queue (./var)")
        command.add_argument("--grace", type=float, help="seconds that running jobs get at shutdown (30)")
        command.add_argument(
            "--log-level", choices=("debug", "info", "warning", "error"), help="the least severe messages to log (info)"
        )
        command.add_argument("--log-format", choices=("text", "json"), help="json: one JSON object a line (text)")
    worker.add_argument(
        "--metrics-port", type=int, help="the port of /metrics; default: 9100 (ARPG_METRICS_PORT); 0 takes a free one"
    )
    for command in (serve, worker):
        _add_model(command, "; given again, one more")

    key_commands.add(commands)
    drawing_commands.add(commands)
    for name in drawing_commands.NAMES:
        _add_model(commands.choices[name], "")

    verify = commands.add_parser(
        "verify",
        help="draw a picture again from the recipe in it, and compare",
        description="The exit status: 0 the same; 1 something differs; 2 that can't be said; 3 what was drawn is the "
        "same, and the pixels of another picture around it are unchecked.",
    )
    verify.add_argument("picture", type=Path, help="a PNG that this service or `arpg` made")
    _add_model(verify, "")

    models = commands.add_parser("models", help="what can be loaded by name: shipped, public, in the cache")
    models.add_argument("--json", action="store_true", help="print the list as JSON")

    commands.add_parser("train", help="train a demo model; `arpg train --help` says how", add_help=False)
    commands.add_parser(
        "evaluate",
        aliases=["judge"],
        help="measure a model; `arpg evaluate --help` and `arpg evaluate samples --help` say how",
        add_help=False,
    )
    commands.add_parser(
        "bench", help="measure speed; `arpg bench --help` and `arpg bench serve --help` say how", add_help=False
    )
    return parser


def _add_model(command: argparse.ArgumentParser, several: str) -> None:
    model_help = f"a name that `arpg models` lists, or a model folder{several} (demo)"
    command.add_argument("--model", action="append", dest="models", metavar="MODEL", help=model_help)
    command.add_argument(
        "--device", help="where the model runs: cpu, cuda, cuda:1 …; default: the GPU where there is one"
    )
