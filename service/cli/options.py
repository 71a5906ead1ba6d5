"""The commands that draw without a server: their options, held to the API's own bounds."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from engine.editing.outpainting import SIDES
from engine.request import MAX_SEED, MAX_STEPS
from service.tasks.expand import Method
from service.tasks.fields import TaskFields
from service.tasks.registry import TASKS
from service.tasks.vary import DEFAULT_KEEP

NAMES = tuple(TASKS)


def add(commands: Any) -> None:
    """commands: the subparsers."""
    generate = commands.add_parser("generate", help="draw pictures straight to files, without a server")
    expand = commands.add_parser("expand", help="draw larger than the model was trained to, without a server")
    inpaint = commands.add_parser("inpaint", help="redraw a part of a picture, without a server")
    outpaint = commands.add_parser("outpaint", help="draw on beyond a picture's borders, without a server")
    vary = commands.add_parser("vary", help="draw a picture anew around some of its tokens, without a server")
    for command in (generate, expand):
        command.add_argument("class_", metavar="class", nargs="?", help="label, name or synonym; none: unconditional")
    for command in (inpaint, outpaint, vary):
        command.add_argument("image", type=Path, help="PNG, JPEG or WebP of any size")
        command.add_argument("--class", dest="class_", help="label, name or synonym")

    for side in ("width", "height"):
        expand.add_argument(f"--{side}", type=int, required=True, help="pixels: whole tokens")
    expand.add_argument("--method", choices=get_args(Method), help="default: by the shape")

    mask_help = "a picture of the same size; white is redrawn. With --mask-mode alpha it may be left out"
    inpaint.add_argument("mask", type=Path, nargs="?", help=mask_help)
    inpaint.add_argument("--mask-mode", choices=("white", "black", "alpha"), default="white")
    inpaint.add_argument("--feather", type=int, default=0, help="pixels that blend the border, 0 to 256 (0)")
    for command in (inpaint, outpaint):
        command.add_argument(
            "--no-seamless",
            dest="seamless",
            action="store_false",
            help="leave the colours of what is drawn alone",
        )

    for side in SIDES:
        outpaint.add_argument(f"--{side}", type=int, default=0, help="pixels, rounded up to whole tokens (0)")

    vary.add_argument("--keep", type=float, help=f"share of the tokens that is kept ({DEFAULT_KEEP})")
    vary.add_argument("--keep-seed", type=int, help="says which ones; default: the seed does")

    for command in (generate, expand, inpaint, outpaint, vary):
        command.set_defaults(refuse=command.error)
        _add_sampling(command)


def checked(parsed: Namespace) -> TaskFields:
    """What the API would take; else the command ends with status 2."""
    if parsed.command == "inpaint" and parsed.mask is None and parsed.mask_mode != "alpha":
        parsed.refuse("a mask is needed, unless --mask-mode is alpha and the picture is transparent")
    schema = TASKS[parsed.command].fields
    # The model may be a path here; the class, the model decides.
    given = {name: getattr(parsed, name, None) for name in schema.model_fields if name not in ("model", "class_")}
    try:
        fields = schema.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        parsed.refuse(f"argument {'-' if len(name) == 1 else '--'}{name}: {first['msg']}")
        raise
    return fields.model_copy(update={"class_": parsed.class_})


def _add_sampling(command: ArgumentParser) -> None:
    command.add_argument("-o", "--output", type=Path, default=Path("picture.png"), help=".png, .jpg or .webp")
    command.add_argument("-n", type=int, default=1, help="how many pictures, 1 to 16 (1)")
    command.add_argument("--seed", type=int, help=f"0 to {MAX_SEED}; default: random, and printed")
    command.add_argument("--steps", type=int, help=f"forward steps, 1 to {MAX_STEPS}; default: the model's")
    command.add_argument("--schedule", choices=("arccos", "cosine"))
    command.add_argument("--guidance-scale", type=float, help="1: none")
    command.add_argument("--guidance-schedule", choices=("constant", "linear"))
    command.add_argument("--guidance-interval", type=int, help="guided while fewer than so many tokens are drawn")
    command.add_argument("--content-attention", choices=("blockwise", "causal"))
    command.add_argument("--temperature", type=float, help="0: argmax")
    command.add_argument("--top-k", type=int, help="0: off")
    command.add_argument("--top-p", type=float, help="1: off")
