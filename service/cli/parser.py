"""The arguments of the `arpg` command."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from service.cli import keys as key_commands
from service.cli import options as drawing_commands
from service.settings import Settings

DESCRIPTION = "Pictures from autoregressive models that draw many tokens at once, in any order."
EPILOG = """
Every setting is also an environment variable: ARPG_MODELS, ARPG_REDIS_URL, ARPG_DATA_DIR, ARPG_GRACE …
(docs/settings.md lists them); HOST and PORT work without the prefix.

  arpg doctor                                      what is wrong here, and what cures it
  arpg keys add ann                                a key for ann; from then on every request needs one
  arpg models                                      what can be loaded by name
  arpg serve                                       the page at http://127.0.0.1:8000
  arpg serve --model demo --model path/to/folder   with two models
  arpg generate mushroom --seed 7 -o mushroom.png  a picture without a server
  arpg generate --prompt "a mug on a green floor"  in words, where the model takes them
  arpg inpaint photo.jpg mask.png --prompt "a green tree" -o edited.png
  arpg outpaint photo.jpg --left 64 --right 64 -o wide.png
  arpg expand house --width 512 --height 128 --method windowed -o panorama.png
  arpg vary photo.jpg --keep 0.3 -n 4 -o again.png
  arpg generate mushroom --server http://127.0.0.1:8000
  arpg verify mushroom.png                         draws it again as it says, and compares
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line: argparse would print all options before it. Takes no abbreviated options: -n and
    --n would be two."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False} | options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def refuse_unknown(self, words: list[str]) -> NoReturn:
        """words: those that the parser did not take."""
        option = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
        if option is None:
            self.error(f"unrecognized arguments: {' '.join(words)}; put words that belong together in quotes")
        near = get_close_matches(option, self._option_string_actions)
        remedy = f"; did you mean {' or '.join(near)}" if near else ""
        self.error(f"unrecognized arguments: {' '.join(words)}{remedy}")


def parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and those of the commands."""
    top = Parser("arpg", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"arpg {_version()}", help="print the version")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    serve = commands.add_parser("serve", help="page, API and a worker, with a Valkey of its own")
    api = commands.add_parser("api", help="the API alone, over ARPG_REDIS_URL or beside an `arpg serve`")
    worker = commands.add_parser("worker", help="a worker alone, over ARPG_REDIS_URL or beside an `arpg serve`")
    for command in (serve, api, worker):
        command.add_argument("--grace", type=float, help="seconds that running jobs get at shutdown (30)")
        command.add_argument(
            "--log-level", choices=("debug", "info", "warning", "error"), help="the least severe messages to log (info)"
        )
        command.add_argument("--log-format", choices=("text", "json"), help="json: one JSON object a line (text)")
    worker.add_argument(
        "--metrics-port", type=int, help="the port of /metrics; default: 9100 (ARPG_METRICS_PORT); 0 takes a free one"
    )
    doctor = commands.add_parser(
        "doctor",
        help="look for what would keep `arpg serve` from running, and say what cures it",
        description="Checks torch, the GPU, Redis, the port, the disk, the caches and the models' checkpoints with the "
        "settings of `arpg serve`. The exit status: 0 all is well; 1 something is wrong.",
    )
    doctor.add_argument("--json", action="store_true", help="print what was found as JSON")
    for command in (serve, api, doctor):
        command.add_argument("--host", help="the address to listen on; default: 127.0.0.1 (HOST)")
        command.add_argument("--port", type=int, help="the port to listen on; default: 8000 (PORT); 0 takes a free one")
    for command in (serve, api, worker, doctor):
        command.add_argument("--redis-url", help="the Redis to use: redis://, rediss:// or unix:// (ARPG_REDIS_URL)")
        command.add_argument("--data-dir", type=Path, help="where `arpg serve` keeps its queue (./var)")
    for command in (serve, worker, doctor):
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
    return top, commands.choices


def _version() -> str:
    try:
        return metadata.version("arpg-serve")
    except metadata.PackageNotFoundError:
        return "unknown: it is not installed"


def _add_model(command: argparse.ArgumentParser, several: str) -> None:
    default = ", ".join(Settings.model_fields["models"].default)
    model_help = f"a name that `arpg models` lists, or a model folder{several} ({default})"
    command.add_argument("--model", action="append", dest="models", metavar="MODEL", help=model_help)
    command.add_argument(
        "--device", help="where the model runs: cpu, cuda, cuda:1 …; default: the GPU where there is one"
    )
