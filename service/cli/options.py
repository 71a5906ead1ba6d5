"""The commands that draw. Their options are the fields of the tasks' requests."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, Namespace
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from service.cli import output
from service.tasks.fields import TaskFields
from service.tasks.inpaint import InpaintFields
from service.tasks.registry import TASKS

NAMES = tuple(TASKS)

NOT_OPTIONS = frozenset({"model", "priority", "previews", "format", "quality"})
"""Fields that are no options: --model takes a path too, the output's extension says the format, a terminal shows tokens
in place of previews, and priority is for clients that have several jobs."""

EPILOG = "An option that is left out and names no default takes the model's."
CLASS = (
    "label, name, synonym or WordNet id of the class; for a model that takes text, a name is its prompt; "
    "left out: draw without a class"
)
SERVER = "let this server draw, such as http://127.0.0.1:8000. Left out: this process draws"
API_KEY = "the key that the server asks for; default: ARPG_API_KEY, which no list of processes shows"
OUTPUT = "where to write the picture: .png, .jpg or .webp; several get numbered names (default: picture.png)"
FILES = {
    "image": "the picture: PNG, JPEG or WebP of any size",
    "mask": "a picture of the same shape. Without it, --mask-mode alpha takes the picture's transparency as the mask",
}


def add(commands: Any) -> None:
    """commands: the subparsers."""
    for name, task in TASKS.items():
        summary = (task.request.__doc__ or name).partition(".")[0].lower()
        command = commands.add_parser(name, help=summary, epilog=EPILOG)
        command.set_defaults(refuse=partial(_refuse, command))
        for file in task.files:
            command.add_argument(file, type=Path, nargs="?" if file == "mask" else None, help=FILES[file])
        if task.files:
            command.add_argument("--class", default=SUPPRESS, help=CLASS)
        else:
            command.add_argument("class", nargs="?", default=SUPPRESS, help=CLASS)
        for field_name, field in task.fields.model_fields.items():
            if field_name not in NOT_OPTIONS | {"class_"}:
                add_option(command, field_name, field)
        command.add_argument("-o", "--output", type=Path, default=Path("picture.png"), help=OUTPUT)
        command.add_argument("--server", metavar="URL", help=SERVER)
        command.add_argument("--api-key", metavar="KEY", help=API_KEY)
        command.add_argument("--json", action="store_true", help="print what was drawn, or the error, as JSON")


def checked(parsed: Namespace) -> TaskFields:
    """The fields that the API would accept. The command ends with status 2 if they, a file or the server can't be used:
    nothing is drawn that can't be kept."""
    fields = _fields(parsed)
    try:
        output.check(parsed.output, fields.n)
    except output.OutputError as error:
        parsed.refuse(f"argument -o/--output: {error}")
    for name in TASKS[parsed.command].files:
        if (path := getattr(parsed, name)) is not None and (problem := _unreadable(path)) is not None:
            parsed.refuse(f"argument {name}: {problem}")
    if parsed.server is not None:
        _check_server(parsed)
    elif parsed.api_key is not None:
        parsed.refuse("argument --api-key: only a server asks for a key; name it with --server")
    return fields


def _unreadable(path: Path) -> str | None:
    """Why a file can't be read, and what to do. None: it can."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return f"there is no file {path}; correct the path"
    except IsADirectoryError:
        return f"{path} is a folder; name a file"
    except OSError as error:
        return f"{path} can't be read ({error.strerror}); change its permissions or name another file"
    return None


def _check_server(parsed: Namespace) -> None:
    try:
        url = urlsplit(parsed.server)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        parsed.refuse("argument --server: must be an address such as http://127.0.0.1:8000, with http:// or https://")
    if parsed.api_key is not None and not (parsed.api_key.isascii() and parsed.api_key.isprintable()):
        parsed.refuse("argument --api-key: a key has letters, digits and signs of ASCII alone; copy it again")
    if parsed.device is not None:
        parsed.refuse("argument --device: the server chooses it; leave it out with --server")
    if len(parsed.models or ()) > 1:
        parsed.refuse(f"argument --model: this command uses one model; choose one: {', '.join(parsed.models)}")


def _refuse(command: ArgumentParser, message: str) -> NoReturn:
    """In one line: the user knows the options, and one value is wrong."""
    command.exit(2, f"{command.prog}: error: {message}\n")


def _fields(parsed: Namespace) -> TaskFields:
    schema = TASKS[parsed.command].fields
    names = {field.alias or name for name, field in schema.model_fields.items() if name not in NOT_OPTIONS}
    try:
        fields = schema.model_validate({name: value for name, value in vars(parsed).items() if name in names})
    except ValidationError as error:
        first = error.errors()[0]
        parsed.refuse(f"argument {flag(str(first['loc'][0]))}: {first['msg']}")
        raise
    if isinstance(fields, InpaintFields) and parsed.mask is None and fields.mask_mode != "alpha":
        parsed.refuse("a mask is needed, unless --mask-mode is alpha and the picture is transparent")
    return fields


def add_option(command: ArgumentParser, name: str, field: FieldInfo) -> None:
    """An option that is not given is absent from the namespace: the field's own default applies."""
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):  # of a type and None
        kind = get_args(kind)[0]
    how: dict[str, Any] = {"type": kind}
    if kind is bool:
        how = {"action": BooleanOptionalAction}
    elif get_origin(kind) is Literal:
        how = {"choices": get_args(kind)}
    elif get_origin(kind) is list:
        how = {"type": int, "nargs": "+", "metavar": "POSITION"}
    command.add_argument(flag(name), required=field.is_required(), default=SUPPRESS, help=_help(field), **how)


def flag(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def _help(field: FieldInfo) -> str:
    """The field's description as a phrase of the command line."""
    text = (field.description or "").replace("Null:", "Left out:").replace("null:", "left out:").replace("%", "%%")
    text = text[:1].lower() + text[1:]
    bounds = {name: getattr(each, name) for each in field.metadata for name in ("ge", "le") if hasattr(each, name)}
    notes = [f"{bounds['ge']} to {bounds['le']}"] if len(bounds) == 2 else []
    if field.default is not None and not field.is_required():
        default = "yes" if field.default is True else field.default
        notes.append(f"default: {default}")
    return f"{text} ({', '.join(notes)})" if notes else text
