"""The requests that a measurement sends, drawn from a mix file.

A mix file is JSON: `name`, and `requests`, each with a `weight`, a `task` (a route that takes JSON) and `fields`. A
field that holds a list takes one of its values, all equally likely; any other value is sent as it is. Class and seed
are drawn for every request unless `fields` names them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

DEFAULT = Path(__file__).with_name("class-conditional.json")


@dataclass(frozen=True, slots=True)
class Drawn:
    """One request: the task, and the JSON body."""

    task: str
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        """Requests of one kind take the same time when they are alone: all but class and seed are equal."""
        settings = {name: value for name, value in self.body.items() if name not in ("class", "seed")}
        return f"{self.task} {json.dumps(settings, sort_keys=True)}"


@dataclass(frozen=True, slots=True)
class Mix:
    """classes: how many the model has."""

    name: str
    entries: tuple[dict[str, Any], ...]
    classes: int

    @classmethod
    def read(cls, path: Path, classes: int) -> Mix:
        content = json.loads(path.read_text())
        return cls(content["name"], tuple(content["requests"]), classes)

    @classmethod
    def equal(cls, steps: int, classes: int) -> Mix:
        """Pictures that differ in class and seed alone."""
        return cls(f"{steps} steps", ({"weight": 1, "task": "generate", "fields": {"steps": steps}},), classes)

    def draw(self, seed: int) -> Iterator[Drawn]:
        """Requests without end; the same for the same seed."""
        random = Random(seed)
        weights = [entry["weight"] for entry in self.entries]
        while True:
            [entry] = random.choices(self.entries, weights)
            fields = {name: _one(value, random) for name, value in entry["fields"].items()}
            varied = {"class": random.randrange(self.classes), "seed": random.getrandbits(31)}
            yield Drawn(entry["task"], varied | fields)

    def one_of_each(self, rounds: int) -> Iterator[Drawn]:
        """A request of every kind that the mix can draw, so many times."""
        for turn in range(rounds):
            for entry in self.entries:
                choices = [value if isinstance(value, list) else [value] for value in entry["fields"].values()]
                for index, values in enumerate(product(*choices)):
                    varied = {"class": (turn + index) % self.classes, "seed": turn}
                    yield Drawn(entry["task"], varied | dict(zip(entry["fields"], values, strict=True)))

    def arrivals(self, seed: int, rate: float, seconds: float) -> Iterator[tuple[float, Drawn]]:
        """Poisson arrivals: the moment in seconds, and the request."""
        random, moment = Random(f"{seed}/arrivals"), 0.0
        for request in self.draw(seed):
            moment += random.expovariate(rate)
            if moment > seconds:
                return
            yield moment, request


def _one(value: Any, random: Random) -> Any:
    return random.choice(value) if isinstance(value, list) else value
