"""A valid request and a model's card → the job's payload: defaults, class, seeds, order, cost.

Raises Problem with the field at fault. Nothing past this line is untrusted.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from engine.card import SETTINGS, ClassLabel, ModelCard
from engine.noise import image_seed
from engine.request import MAX_SEED
from service.errors import NEAREST, FieldError, Problem, did_you_mean
from service.tasks.canvas import Canvas, whole
from service.tasks.fields import GenerateRequest

# What an order that is fixed leaves no choice of.
OF_THE_ORDER = frozenset({"steps", "schedule", "content_attention", "order"})

AnyFields = TypeVar("AnyFields", bound=GenerateRequest)

_LABEL = re.compile(r"-?[0-9]+")


def find_class(wanted: int | str | None, classes: Sequence[ClassLabel]) -> ClassLabel | None:
    """By label, name or synonym, upper and lower case alike. None: no class."""
    if wanted is None:
        return None
    text = " ".join(str(wanted).replace("_", " ").casefold().split())
    names = {_folded(name): c for c in classes for name in (*reversed(c.synonyms), c.name)}
    if not isinstance(wanted, int) and text in names:
        return names[text]
    by_label = {str(c.label): c for c in classes}
    if text in by_label:
        return by_label[text]
    raise Problem.field("class", _unknown_class(wanted, text, names, classes), "unknown_class")


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _unknown_class(wanted: int | str, text: str, names: dict[str, ClassLabel], classes: Sequence[ClassLabel]) -> str:
    if _LABEL.fullmatch(text):
        labels = [c.label for c in classes]
        return f"there is no class {text}; labels run from {min(labels)} to {max(labels)}"
    # A class is named once, by its proper name.
    near = list(dict.fromkeys(names[name].name for name in did_you_mean(text, names)))[:NEAREST]
    if not near:
        return "the model has no such class; its classes are listed under /v1/models/{model}/classes"
    return f"the model has no such class; the nearest are {', '.join(near)}"


def check_task(task: str, card: ModelCard) -> None:
    """Raises Problem where the model can't do it."""
    if task in card.tasks:
        return
    why = "" if "order" in card.settings else ": it draws in a fixed order"
    can = ", ".join(card.tasks)
    raise Problem.field("model", f"{card.name} can't {task}{why}; it can {can}", "task_not_supported")


def sampling(given: Mapping[str, Any], card: ModelCard) -> dict[str, Any]:
    """A value for every sampling field: the one given, else the model's default; None where it does not apply.

    Raises Problem with all the fields that are given and the model would not honour.
    """
    strange = [name for name in SETTINGS if given.get(name) is not None and name not in card.settings]
    if strange:
        errors = [FieldError(name, _not_honoured(name, card), "setting_not_supported") for name in strange]
        detail = f"{', '.join(strange)}: {errors[0].message}"
        raise Problem(422, "setting_not_supported", detail, errors=errors)
    values: dict[str, Any] = dict.fromkeys(SETTINGS)
    for name in card.settings:
        value = given.get(name)
        values[name] = getattr(card.defaults, name, None) if value is None else value
    return values


def _not_honoured(name: str, card: ModelCard) -> str:
    takes = f"it takes {', '.join(card.settings)}"
    if name in OF_THE_ORDER and "order" not in card.settings:
        steps = "" if card.steps is None else f" of {card.steps} steps"
        return f"{card.name} draws in a fixed order{steps}; {takes}"
    return f"{card.name} has no such setting; {takes}"


def check_order(order: Sequence[int] | None, positions: Iterable[int]) -> None:
    """An explicit order names each of the positions to draw exactly once."""
    if order is None:
        return
    expected = frozenset(positions)
    counts = Counter(order)
    say = f"must name each of the {len(expected)} positions to draw exactly once"
    if strange := sorted(counts.keys() - expected):
        raise Problem.field("order", f"{say}; {strange[0]} is not one of them", "order")
    if repeated := sorted(p for p, count in counts.items() if count > 1):
        raise Problem.field("order", f"{say}; {repeated[0]} is there {counts[repeated[0]]} times", "order")
    if missing := sorted(expected - counts.keys()):
        raise Problem.field("order", f"{say}; {missing[0]} is missing", "order")


def seeded(fields: AnyFields) -> AnyFields:
    """With a seed: the one given, else a random one."""
    if fields.seed is not None:
        return fields
    return fields.model_copy(update={"seed": secrets.randbelow(MAX_SEED + 1)})


def resolve(fields: GenerateRequest, card: ModelCard, task: str, canvas: Canvas | None = None) -> dict[str, Any]:
    """The payload that the worker reads, for a task that the model can do. canvas: None is the model's own grid."""
    canvas, fields = canvas or whole(card), seeded(fields)
    values = sampling({name: getattr(fields, name) for name in SETTINGS}, card)
    found = find_class(fields.class_, card.classes)
    if found is None and fields.guidance_scale not in (None, 1):
        raise Problem.field("guidance_scale", "guidance needs a class; give one, or leave this out", "no_class")
    check_order(fields.order, np.flatnonzero(canvas.unknown).tolist())
    if found is None and values["guidance_scale"] is not None:
        values["guidance_scale"] = 1.0  # there is one branch only, and nothing to guide
    assert fields.seed is not None
    payload: dict[str, Any] = {
        "task": task,
        "model": card.name,
        "class_label": None if found is None else found.label,
        "class_name": None if found is None else found.name,
        "n": fields.n,
        "seed": fields.seed,
        "seeds": image_seeds(fields.seed, fields.n),
        **values,
        "previews": fields.previews,
        "size": list(canvas.size),
        "windowed": canvas.windowed,
        "image": None,
        "mask": None,
        "feather": 0,
        "format": fields.format,
        "quality": fields.quality,
    }
    if canvas.grid != card.grid:
        payload["grid"] = list(canvas.grid)
    if canvas.extension is not None:
        payload["extension"] = canvas.extension
    payload |= fields.model_dump(include=_own_fields(type(fields)))
    if "method" in payload:
        payload["method"] = canvas.extension or "windowed"
    return payload


def image_seeds(seed: int, n: int) -> list[int]:
    return [image_seed(seed, index) for index in range(n)]


def _own_fields(schema: type[GenerateRequest]) -> set[str]:
    """What a task has beside the fields of all, and the pictures themselves."""
    return schema.model_fields.keys() - GenerateRequest.model_fields.keys() - {"image", "mask"}


def cost(payload: dict[str, Any], card: ModelCard, capacity: dict[str, Any]) -> int:
    """KV tokens that the job may reserve, in whole pages: what it weighs in the queue. No family caches more than a
    row for every position that is drawn at once; how much less it is, the worker's engine knows.

    Raises Problem when one picture alone may never fit the largest worker.
    """
    page = int(capacity.get("page_size", 16))
    branches = 1 if payload["class_label"] is None or payload["guidance_scale"] == 1 else 2
    rows, cols = card.grid if payload["windowed"] else payload.get("grid", card.grid)
    picture = -(-rows * cols // page) * page * branches
    room = capacity.get("cache_tokens")
    if room is not None and picture > room:
        message = f"a picture needs {picture} tokens of KV cache, and the largest worker has {room}"
        raise Problem.field("model" if (rows, cols) == card.grid else "width", message, "never_fits")
    return picture * int(payload["n"])
