"""What is drawn for an evaluation: the same number of pictures of each class, in batches.

A picture is a function of its place and of the spec alone. So a run that was stopped and resumed has the same pictures
as one that was not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from engine.card import ModelCard
from engine.noise import image_seed

BATCH = 10
"""Pictures of a class at most that are drawn together: one job of the service."""
SHARD = 10
"""Batches in a file: 100 pictures where there are 50 of each class, 20 MB at 256 pixels."""


class SampleError(Exception):
    """Samples that can't be drawn, stored or resumed; the message names the field and says what to do."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures of one class that are drawn together. seed: that of a job of `count` pictures; `seeds` has each
    picture's."""

    index: int
    label: int
    seed: int
    count: int

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(image_seed(self.seed, index) for index in range(self.count))


@dataclass(frozen=True)
class SampleSpec:
    """What is drawn. weights, tokenizer: fingerprints, as in a model's card. labels: the classes. drawn_size, size:
    height and width as the model draws them, and as they are stored. settings: every sampling field that the model
    supports."""

    model: str
    weights: str
    tokenizer: str
    labels: tuple[int, ...]
    count: int
    seed: int
    drawn_size: tuple[int, int]
    size: tuple[int, int]
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, card: ModelCard, count: int, seed: int, given: Mapping[str, Any], side: int | None) -> SampleSpec:
        """given: sampling fields in place of the model's defaults. side: of the stored pictures, in pixels; None: as
        drawn. Raises SampleError."""
        if card.conditioning != "class" or not card.classes:
            raise SampleError(f"model: {card.name} draws no classes; the figures need a model of classes")
        if strange := sorted(given.keys() - set(card.settings)):
            takes = ", ".join(card.settings)
            raise SampleError(f"{', '.join(strange)}: {card.name} has no such setting; it takes {takes}")
        classes = len(card.classes)
        if count < 1 or count % classes:
            less, more = count // classes * classes, (count // classes + 1) * classes
            nearest = f"{less} or {more}" if less > 0 else f"{more}"
            raise SampleError(f"--count: must be a multiple of the model's {classes} classes, such as {nearest}")
        return cls(
            model=card.name,
            weights=card.weights,
            tokenizer=card.tokenizer,
            labels=tuple(label.label for label in card.classes),
            count=count,
            seed=seed,
            drawn_size=(card.height, card.width),
            size=(card.height, card.width) if side is None else (side, side),
            settings={
                name: value for name, value in asdict(card.defaults_of("generate")).items() if name in card.settings
            } | dict(given),
        )  # fmt: skip

    @property
    def each(self) -> int:
        """Pictures of each class."""
        return self.count // len(self.labels)

    @property
    def batches_each(self) -> int:
        """Batches of each class."""
        return -(-self.each // BATCH)

    @property
    def batches(self) -> int:
        return self.batches_each * len(self.labels)

    @property
    def shards(self) -> int:
        return -(-self.batches // SHARD)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def batch(self, index: int) -> Batch:
        """Batches are numbered class by class. The seeds of all are apart, and so are those of specs with other
        seeds."""
        place, part = divmod(index, self.batches_each)
        count = min(BATCH, self.each - part * BATCH)
        return Batch(index, self.labels[place], image_seed(self.seed, index + 1), count)

    def shard(self, index: int) -> list[Batch]:
        return [self.batch(i) for i in range(index * SHARD, min((index + 1) * SHARD, self.batches))]

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return data

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What another spec has in place of this one's values, as JSON has it."""
        own, other = _flat(self.to_json()), _flat(other)
        return [
            f"{name}: {_shown(other.get(name))} there, {_shown(own.get(name))} now"
            for name in own | other
            if own.get(name) != other.get(name)
        ]


def _flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the other fields."""
    return {name: value for name, value in spec.items() if name != "settings"} | dict(spec.get("settings", {}))


def _shown(value: Any) -> str:
    return f"{len(value)} of them" if isinstance(value, list) and len(value) > 2 else json.dumps(value)
