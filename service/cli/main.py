"""The `arpg` command."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from service import logs
from service.cli import keys as key_commands
from service.cli import options as drawing_commands
from service.cli.parser import parser
from service.errors import did_you_mean
from service.settings import Settings, set_up_logging, unknown_variables

log = logging.getLogger(__name__)

WITHOUT_ENGINE = frozenset({"api", "keys", "doctor"})
"""The commands that an installation without torch has; with --server, the drawing commands too."""

OWN_PARSERS = {
    "bench serve": ("service.bench.__main__", "service"),
    "evaluate samples": ("service.cli.samples.command", "train"),
    "train": ("engine.training.__main__", "train"),
    "evaluate": ("engine.evaluation.__main__", "train"),
    "bench": ("engine.bench.__main__", "service"),
    "judge": ("engine.evaluation.__main__", "train"),  # the earlier name of evaluate
}
"""The commands that parse their own arguments: their modules, and the extra that holds what these need."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 well, 1 something failed, 2 it was asked for wrongly."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for words in (2, 1):  # `bench serve` before `bench`
        if (command := " ".join(given[:words])) in OWN_PARSERS:
            return _run_own_parser(command, given[words:])
    parsed = _parsed(given)
    chosen = _chosen(parsed)
    try:
        settings = Settings(**chosen)
    except ValidationError as error:
        for problem in error.errors():
            print(f"arpg: {_setting(str(problem['loc'][0]), chosen)}: {problem['msg']}", file=sys.stderr)
        return 2
    set_up_logging(settings)
    try:
        return _run(parsed, settings)
    except KeyboardInterrupt:
        return 130
    except _expected() as error:
        logs.status(f"arpg: {_said(error)}", logging.ERROR)
        if getattr(parsed, "json", False):
            print(json.dumps({"error": _told(error)}, indent=1))
        return 1


def _parsed(given: list[str]) -> argparse.Namespace:
    top, commands = parser()
    if given and not given[0].startswith("-") and given[0] not in commands:
        near = list(dict.fromkeys(did_you_mean(given[0], commands)))
        top.error(
            f"there is no command {given[0]}; " + (f"did you mean {' or '.join(near)}?" if near else "see --help")
        )
    parsed, unknown = top.parse_known_args(given)
    if unknown:
        commands[parsed.command].refuse_unknown(unknown)
    if parsed.command in drawing_commands.NAMES:
        parsed.fields = drawing_commands.checked(parsed)
    return parsed


def _run_own_parser(command: str, arguments: list[str]) -> int:
    module_name, extra = OWN_PARSERS[command]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        print(f"arpg {command} needs {missing.name}: pip install '.[{extra}]' in the checkout", file=sys.stderr)
        return 1
    try:
        status: int = module.main(arguments)
    except RuntimeError as error:
        choice = sys.modules.get("engine.ops.choice")
        if choice is None or not isinstance(error, choice.DeviceError):
            raise
        print(f"arpg: {error}", file=sys.stderr)
        return 1
    return status


def _run(parsed: argparse.Namespace, settings: Settings) -> int:
    draws_elsewhere = getattr(parsed, "server", None) is not None
    if not draws_elsewhere and parsed.command not in WITHOUT_ENGINE and importlib.util.find_spec("torch") is None:
        other = ", or --server to let a server draw" if parsed.command in drawing_commands.NAMES else ""
        print(f"arpg {parsed.command} needs torch: pip install '.[service]' in the checkout{other}", file=sys.stderr)
        return 1
    # Imported where they are needed: `arpg --help` must not wait for anything.
    if parsed.command == "models":
        from service.cli import models as listing

        return listing.models(parsed)
    if parsed.command == "verify":
        from service.cli import verify as verifying

        return verifying.verify(parsed, settings)
    if parsed.command in drawing_commands.NAMES:
        return _draw(parsed, settings)
    if parsed.command == "doctor":
        from service.cli.doctor import doctor

        return doctor(parsed, settings)
    if parsed.command == "keys":
        return key_commands.run(parsed, settings)
    from service.server import run as serving

    for name, near in unknown_variables(os.environ).items():
        log.warning("%s is no setting, and has no effect%s", name, f"; did you mean {near}?" if near else "")
    commands = {"serve": serving.serve, "api": serving.api, "worker": serving.worker}
    return commands[parsed.command](settings)


def _draw(parsed: argparse.Namespace, settings: Settings) -> int:
    from service.cli import output

    if parsed.server is not None:
        from service.cli import remote

        result = remote.draw(parsed)
    else:
        from service.cli import draw

        result = draw.draw(parsed, settings)
    output.save(parsed.output, result, as_json=parsed.json)
    return 0


def _expected() -> tuple[type[Exception], ...]:
    """Errors that the user can correct: one line, without a traceback."""
    from engine.request import RequestError
    from service.auth.keys import KeysError
    from service.errors import Problem
    from service.jobs import ServerUnsuitable
    from service.server.embedded import DirectoryInUse, ServerFailed, ServerNotFound
    from service.server.listen import CannotListen
    from service.tasks.pictures.errors import ImageError

    expected: tuple[type[Exception], ...] = (
        RequestError, ImageError, Problem, CannotListen, ServerUnsuitable, ServerNotFound, ServerFailed,
        DirectoryInUse, OSError, KeysError,
    )  # fmt: skip
    # Only a process that has loaded them can fail at these.
    for module, name in (
        ("engine.models.checkpoint", "CheckpointError"),
        ("engine.ops.choice", "DeviceError"),
        ("service.cli.remote", "RemoteError"),
    ):
        if module in sys.modules:
            expected = (*expected, getattr(sys.modules[module], name))
    return expected


def _said(error: Exception) -> str:
    """The message behind its field: only the message of an ImageError lacks it."""
    from service.tasks.pictures.errors import ImageError

    return f"{error.field}: {error}" if isinstance(error, ImageError) else str(error)


def _told(error: Exception) -> dict[str, Any]:
    """As the API tells it: code, field and message."""
    places = [*(one.field for one in getattr(error, "errors", ())), getattr(error, "field", None)]
    field = next((place for place in places if isinstance(place, str)), None)
    return {"code": getattr(error, "code", None) or "error", "field": field, "message": str(error)}


def _setting(name: str, chosen: dict[str, Any]) -> str:
    """What the user has given: the option, or else the environment variable."""
    field = name.lower().removeprefix("arpg_")
    if field in chosen:
        return "--model" if field == "models" else drawing_commands.flag(field)
    return f"ARPG_{field.upper()}"


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
    chosen = {name: value for name in names if (value := getattr(parsed, name, None)) is not None}
    if parsed.command in (*drawing_commands.NAMES, "doctor") and "ARPG_LOG_LEVEL" not in os.environ:
        chosen["log_level"] = "warning"  # these say themselves what they do
    return chosen
