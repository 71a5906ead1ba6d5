"""The sampling parameters of a request, held to a model's card: class, settings and order.

Raises Problem with the field at fault.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.card import SETTINGS, ClassLabel, ModelCard
from service.errors import NEAREST, FieldError, Problem, did_you_mean

# Settings that don't apply to a model with a fixed order.
OF_THE_ORDER = frozenset({"steps", "schedule", "content_attention", "order"})

_LABEL = re.compile(r"-?[0-9]+")


def find_class(wanted: int | str | None, classes: Sequence[ClassLabel]) -> ClassLabel | None:
    """Looks a class up by label, name or synonym, ignoring case. None: no class."""
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
    # List a class once, by its name, even if several synonyms match.
    near = list(dict.fromkeys(names[name].name for name in did_you_mean(text, names)))[:NEAREST]
    if not near:
        return "the model has no such class; its classes are listed under /v1/models/{model}/classes"
    return f"the model has no such class; the nearest are {', '.join(near)}"


def sampling(given: Mapping[str, Any], card: ModelCard) -> dict[str, Any]:
    """A value for every sampling field: the given one, else the model's default; None if it does not apply.

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
