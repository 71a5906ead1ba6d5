"""A valid request and a model's card → the job's payload: defaults, class, seeds, order, cost.

Raises Problem with the field at fault. Nothing past this line is untrusted.
"""

from __future__ import annotations

import difflib
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from engine.card import ClassLabel, ModelCard
from engine.noise import image_seed
from engine.plans.arpg import plan_arpg
from engine.request import MAX_SEED, Request
from service.problems import Problem
from service.schemas import GenerateRequest, InpaintFields

NEAREST = 5

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
    near = [name for name in names if len(text) > 2 and text in name]
    near += difflib.get_close_matches(text, names, n=2 * NEAREST, cutoff=0.5)
    # A class is named once, by its proper name.
    nearest = list(dict.fromkeys(names[name].name for name in near))[:NEAREST]
    if not nearest:
        return "the model has no such class; its classes are listed under /v1/models/{model}/classes"
    return f"the model has no such class; the nearest are {', '.join(nearest)}"


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


def resolve(
    fields: GenerateRequest, card: ModelCard, task: str, unknown: frozenset[int] | None = None
) -> dict[str, Any]:
    """The payload that the worker reads. unknown: the grid positions to draw, all of them by default."""
    if task not in card.tasks:
        can = ", ".join(card.tasks)
        raise Problem.field("model", f"{card.name} can't {task}; it can {can}", "task_not_supported")
    found = find_class(fields.class_, card.classes)
    if found is None and fields.guidance_scale not in (None, 1):
        raise Problem.field("guidance_scale", "guidance needs a class; give one, or leave this out", "no_class")
    check_order(fields.order, range(card.positions) if unknown is None else unknown)
    seed = secrets.randbelow(MAX_SEED + 1) if fields.seed is None else fields.seed

    def chosen(name: str) -> Any:
        given = getattr(fields, name)
        return getattr(card.defaults, name) if given is None else given

    payload: dict[str, Any] = {
        "task": task,
        "model": card.name,
        "class_label": None if found is None else found.label,
        "class_name": None if found is None else found.name,
        "n": fields.n,
        "seed": seed,
        "seeds": [image_seed(seed, index) for index in range(fields.n)],
        "steps": chosen("steps"),
        "schedule": chosen("schedule"),
        # Without a class there is one branch only, and nothing to guide.
        "guidance_scale": 1.0 if found is None else chosen("guidance_scale"),
        "guidance_schedule": chosen("guidance_schedule"),
        "content_attention": chosen("content_attention"),
        "temperature": chosen("temperature"),
        "top_k": chosen("top_k"),
        "top_p": chosen("top_p"),
        "order": fields.order,
        "previews": fields.previews,
        "image": None,
        "mask": None,
        "feather": 0,
        "format": fields.format,
        "quality": fields.quality,
    }
    if isinstance(fields, InpaintFields):
        payload |= {"feather": fields.feather, "mask_mode": fields.mask_mode}
    return payload


def cost(payload: dict[str, Any], card: ModelCard, unknown: int, capacity: dict[str, Any]) -> int:
    """KV tokens that the job will reserve, in whole pages: what it weighs in the queue.

    Raises Problem when one picture alone can never fit the largest worker.
    """
    page = int(capacity.get("page_size", 16))
    # Which positions are drawn in which order makes no difference to the cost: the first ones, one after the other.
    request = Request(
        class_label=payload["class_label"],
        steps=payload["steps"],
        schedule=payload["schedule"],
        guidance_scale=payload["guidance_scale"],
        order=tuple(range(unknown)),
        known=dict.fromkeys(range(unknown, card.positions), 0),
    )
    plan = plan_arpg(request, positions=card.positions, mask_id=0, class_id=0, null_id=0)
    picture = -(-plan.cached_rows // page) * page * plan.branches
    room = capacity.get("cache_tokens")
    if room is not None and picture > room:
        message = f"a picture needs {picture} tokens of KV cache, and the largest worker has {room}"
        raise Problem.field("model", message, "never_fits")
    return picture * int(payload["n"])
