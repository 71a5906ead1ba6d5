"""From OpenAI's fields to a task and its fields. The task checks what it always checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from engine.card import ModelCard
from service.api.openai import sizes
from service.api.openai.errors import fields_renamed
from service.api.openai.schemas import REFUSED, ImagesRequest, extras
from service.api.problems import MOST_ERRORS, from_validation, shortened
from service.errors import FieldError, Problem, no_such_field
from service.jobs.spec import JobSpec
from service.tasks import drawing
from service.tasks.fields import TaskFields
from service.tasks.registry import TASKS
from service.tasks.task import Task

FIELD_NAMES = {
    "class": "prompt",
    "width": "size",
    "height": "size",
    "format": "output_format",
    "quality": "output_compression",
    "previews": "partial_images",
}
"""A task's field → the client's."""

STEPS_DIVISOR = {"low": 4, "medium": 2}


@dataclass(frozen=True, slots=True)
class Face:
    """One of the two routes. route: what an idempotency key belongs to. event: the events' names begin with it. task:
    what a request counts as before it is known that it expands. extras: the fields of tasks that a request may have."""

    route: str
    event: str
    task: str
    extras: frozenset[str]


GENERATION = Face("images/generations", "image_generation", "generate", frozenset(extras(TASKS["expand"].fields)))
EDIT = Face("images/edits", "image_edit", "inpaint", frozenset(extras(TASKS["inpaint"].fields)))


def check(wanted: ImagesRequest, face: Face) -> None:
    """What can be said without a model. Raises Problem."""
    given = {name: value for name, value in (wanted.model_extra or {}).items() if value is not None}
    if strange := [name for name in given if name not in face.extras]:
        known = face.extras | type(wanted).model_fields.keys()
        errors = [
            FieldError(shortened(name), f"is not supported: {REFUSED[name]}", "not_supported")
            if name in REFUSED
            else FieldError(shortened(name), no_such_field(shortened(name), sorted(known)), "extra_forbidden")
            for name in strange[:MOST_ERRORS]
        ]
        more = f"; and {len(strange) - 3} more" if len(strange) > 3 else ""
        detail = "; ".join(f"{error.field}: {error.message}" for error in errors[:3]) + more
        raise Problem(400, errors[0].code, detail, errors=errors)
    streamed = bool(wanted.stream)
    if wanted.partial_images and not streamed:
        raise _refusal("partial_images", "partial images are events of a stream: send stream=true, or leave it out")
    if streamed and (wanted.n or 1) > 1:
        raise _refusal("n", "must be 1 with stream=true: the events don't tell one picture from another")
    if streamed and wanted.response_format == "url":
        raise _refusal("response_format", "events carry the picture itself; leave it out, or send b64_json")
    if (wanted.output_format or "png") == "png" and wanted.output_compression not in (None, 100):
        raise _refusal("output_compression", "png files are lossless: send 100, or output_format jpeg or webp")
    if wanted.tier != "high" and "steps" in given:
        raise _refusal("quality", "quality sets the number of steps, and so does steps; leave one of them out")


def translated(wanted: ImagesRequest, face: Face, card: ModelCard) -> tuple[Task, TaskFields]:
    """wanted: as `check` accepted it. Raises Problem."""
    values: dict[str, Any] = {name: value for name, value in (wanted.model_extra or {}).items() if value is not None}
    values |= {
        "model": card.name,
        "prompt" if card.conditioning == "text" else "class": wanted.prompt,
        "n": wanted.n or 1,
        "format": wanted.output_format or "png",
        "quality": max(1, 100 if wanted.output_compression is None else wanted.output_compression),
    }
    if (divisor := STEPS_DIVISOR.get(wanted.tier)) is not None:
        values["steps"] = max(1, _settable_steps(card, "inpaint" if face is EDIT else "generate") // divisor)
    size = sizes.parse(wanted.size)
    if face is EDIT:
        return _checked(TASKS["inpaint"], {"mask_mode": "alpha"} | values)
    if size in (None, (card.height, card.width)):
        return _checked(TASKS["generate"], values)
    assert size is not None
    if "expand" not in card.tasks or size != sizes.nearest(size, card):
        raise sizes.unavailable(size, card)
    return _checked(TASKS["expand"], values | {"height": size[0], "width": size[1]})


def decided(wanted: ImagesRequest, face: Face, spec: JobSpec, card: ModelCard) -> JobSpec:
    """The spec with its previews, whose steps follow from the plan. Raises Problem."""
    size = sizes.parse(wanted.size)
    if face is EDIT and size not in (None, spec.size):
        raise sizes.unlike_picture(spec.size)
    if not wanted.partial_images:
        return spec
    steps = drawing.steps_of(spec, card)
    if steps == 1:
        raise _refusal("partial_images", "a picture that is drawn in one step has no partial image; send 0")
    previews = -(-steps // (wanted.partial_images + 1))
    return spec.model_copy(update={"output": spec.output.model_copy(update={"previews": previews})})


def _checked(task: Task, values: dict[str, Any]) -> tuple[Task, TaskFields]:
    try:
        return task, task.fields.model_validate(values)
    except ValidationError as error:
        with fields_renamed(FIELD_NAMES):
            raise from_validation(error.errors(include_url=False, include_input=False), place="body") from None


def _settable_steps(card: ModelCard, task: str) -> int:
    if "steps" not in card.settings:
        own = "" if card.steps is None else f" of {card.steps} steps"
        raise _refusal("quality", f"{card.name} draws in a fixed order{own}; leave quality out, or send auto")
    return card.defaults_of(task).steps


def _refusal(field: str, message: str) -> Problem:
    return Problem.field(field, message, "not_supported", status=400)
