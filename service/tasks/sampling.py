"""The sampling parameters of a request, held to a model's card: class or prompt, settings and order.

Raises Problem with the field at fault.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from engine.card import SETTINGS, ClassLabel, Defaults, ModelCard
from service.errors import NEAREST, FieldError, Problem, did_you_mean
from service.jobs.spec import ClassCondition, Condition, NoCondition, TextCondition
from service.tasks.fields import TaskFields

# Settings that don't apply to a model with a fixed order.
OF_THE_ORDER = frozenset({"steps", "schedule", "content_attention", "order"})

_LABEL = re.compile(r"-?[0-9]+")
_WORDNET_ID = re.compile(r"n[0-9]{8}")


def condition(fields: TaskFields, card: ModelCard, values: Mapping[str, Any]) -> Condition:
    """What the pictures are to show. values: as `sampling` made them.

    Raises Problem where the model takes no such thing, or where a field would have no effect without it.
    """
    found = _text(fields, card, values) if card.conditioning == "text" else _class(fields, card)
    if isinstance(found, NoCondition) and fields.guidance_scale not in (None, 1):
        what = "prompt" if card.conditioning == "text" else "class"
        raise Problem.field("guidance_scale", f"guidance needs a {what}; give one, or leave this out", f"no_{what}")
    return found


def _class(fields: TaskFields, card: ModelCard) -> Condition:
    if fields.prompt is not None:
        remedy = f"send class, one of {classes_of(card.name)}"
        raise Problem.field("prompt", f"{card.name} draws classes and reads no text; {remedy}", "prompt_not_supported")
    if fields.negative_prompt is not None:
        message = f"{card.name} draws classes and reads no text; leave it out"
        raise Problem.field("negative_prompt", message, "prompt_not_supported")
    found = find_class(fields.class_, card.classes, card.name)
    return NoCondition() if found is None else ClassCondition(label=found.label, name=found.name)


def _text(fields: TaskFields, card: ModelCard, values: Mapping[str, Any]) -> Condition:
    prompt = fields.prompt if fields.class_ is None else _named(fields.class_, fields.prompt, card)
    if fields.negative_prompt is not None and prompt is None:
        message = "guidance leads from it to the prompt; give a prompt too, or leave this out"
        raise Problem.field("negative_prompt", message, "no_prompt")
    if fields.negative_prompt is not None and (values["guidance_scale"] == 1 or values["guidance_interval"] == 0):
        remedy = "send a guidance_scale other than 1 and no guidance_interval of 0, or leave this out"
        raise Problem.field("negative_prompt", f"it has no effect without guidance; {remedy}", "no_guidance")
    return NoCondition() if prompt is None else TextCondition(prompt=prompt, negative_prompt=fields.negative_prompt)


def _named(wanted: int | str, prompt: str | None, card: ModelCard) -> str:
    """The prompt of a class's name, for a model that takes text."""
    if prompt is not None:
        message = f"{card.name} draws what prompt says; leave class out, or write its name into the prompt"
        raise Problem.field("class", message, "class_not_supported")
    name = " ".join(str(wanted).replace("_", " ").split())
    if not name or "\0" in name or _LABEL.fullmatch(name) or _WORDNET_ID.fullmatch(name):
        message = f"{card.name} takes text and has no list of classes; send prompt, such as the name of the class"
        raise Problem.field("class", message, "class_not_supported")
    return name


def classes_of(model: str) -> str:
    """Where a client finds a model's classes, as messages say it."""
    return f"those under /v1/models/{model}/classes"


def find_class(wanted: int | str | None, classes: tuple[ClassLabel, ...], model: str) -> ClassLabel | None:
    """Looks a class up by label, name, synonym or WordNet id, ignoring case. None: no class. model: its name.

    Raises Problem where no class is meant, or several may be.
    """
    if wanted is None:
        return None
    text = _folded(str(wanted))
    if isinstance(wanted, int):
        meant = tuple(c for c in classes if c.label == wanted)
    else:
        meant = _by_word(classes).get(text, ())
    if len(meant) > 1:
        raise Problem.field("class", _ambiguous(text, meant), "ambiguous_class")
    if not meant:
        raise Problem.field("class", _unknown_class(text, classes, model), "unknown_class")
    return meant[0]


@lru_cache(maxsize=16)
def _by_word(classes: tuple[ClassLabel, ...]) -> dict[str, tuple[ClassLabel, ...]]:
    """Name, synonym, label or WordNet id → the classes that it may mean. The name of a class means no synonym of
    another one. Kept, because the thousand classes of ImageNet take a millisecond."""
    names: dict[str, dict[ClassLabel, None]] = {}
    synonyms: dict[str, dict[ClassLabel, None]] = {}
    numbers: dict[str, dict[ClassLabel, None]] = {}
    for each in classes:
        names.setdefault(_folded(each.name), {})[each] = None
        for synonym in each.synonyms:
            synonyms.setdefault(_folded(synonym), {})[each] = None
        for number in (str(each.label), each.wordnet_id or str(each.label)):
            numbers.setdefault(number, {})[each] = None
    return {word: tuple(meant) for word, meant in (numbers | synonyms | names).items()}


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _ambiguous(text: str, meant: tuple[ClassLabel, ...]) -> str:
    each = [f"{c.name} (label {c.label}{'' if c.wordnet_id is None else f', {c.wordnet_id}'})" for c in meant[:NEAREST]]
    others = f" or {len(meant) - NEAREST} others" if len(meant) > NEAREST else ""
    remedy = "label" if meant[0].wordnet_id is None else "name, label or WordNet id"
    return f"{text} may mean {' or '.join(each)}{others}; say which by {remedy}"


def _unknown_class(text: str, classes: tuple[ClassLabel, ...], model: str) -> str:
    listed = f"its classes are {classes_of(model)}"
    if _LABEL.fullmatch(text):
        labels = [c.label for c in classes]
        return f"there is no class {text}; labels run from {min(labels)} to {max(labels)}"
    if _WORDNET_ID.fullmatch(text):
        return f"the model has no class with the WordNet id {text}; {listed}"
    by_word = _by_word(classes)
    words = [word for word in by_word if not _LABEL.fullmatch(word) and not _WORDNET_ID.fullmatch(word)]
    # List a class once, by its name, even if several synonyms match.
    near = list(dict.fromkeys(c.name for word in did_you_mean(text, words) for c in by_word[word]))[:NEAREST]
    if not near:
        return f"the model has no such class; {listed}"
    *most, last = near
    known = f"nearest are {', '.join(most)} and" if most else "nearest is"
    return f"the model has no such class; the {known} {last}"


def sampling(given: Mapping[str, Any], card: ModelCard, defaults: Defaults) -> dict[str, Any]:
    """A value for every sampling field: the given one, else the default; None if it does not apply.

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
        values[name] = getattr(defaults, name, None) if value is None else value
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
