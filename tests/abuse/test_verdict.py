"""`make abuse` fails when a bound does not hold, and names it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.abuse.attacks.attack import Told
from tests.abuse.bystander import Bystander
from tests.abuse.run import ATTACKS, Report
from tests.abuse.verdict import broken, table, to_json
from tests.abuse.web import LATE, Answer, Site
from tests.abuse.weight import Memory


def sizes(api: int, worker: int) -> Counter[str]:
    return Counter(api=api * 10**6, worker=worker * 10**6)


GOOD = Memory(start=sizes(100, 600), peak=sizes(400, 1000), after=sizes(160, 600))


def seen(*, health: float = 0.01, picture: float = 0.3, upload: float = 0.5, outcome: str = "200") -> Bystander:
    other = Bystander(Site("http://127.0.0.1:1"), b"")
    for one, seconds in ((other.health, health), (other.pictures, picture), (other.uploads, upload)):
        for _ in range(98):
            one.add(0.01, Answer("200"))
        one.add(seconds, Answer("200"))
        one.add(seconds, Answer(outcome))
    return other


def report(other: Bystander, *, memory: Memory = GOOD, number: int = 1, told: Told | None = None) -> Report:
    return Report(ATTACKS[number], seen(), other, told or Told(), memory, 20.0, 5.0, 0.0)


def test_within_the_bounds_nothing_is_broken() -> None:
    assert broken(report(seen(health=0.1, picture=3.0, upload=3.0))) == []
    assert table([report(seen())]).endswith("holds")
    assert to_json(report(seen()))["broken"] == []


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (seen(health=0.11), "/healthz p99 110 ms > 100 ms"),
        (seen(picture=3.1), "picture 3.1 s > 3 s"),
        (seen(upload=4.0), "upload 4.0 s > 3 s"),
        (seen(outcome=LATE), "picture: 200 ×99, no answer ×1"),
        (seen(outcome="503"), "/healthz: 200 ×99, 503 ×1"),
    ],
)
def test_what_the_other_client_must_not_see_is_named(other: Bystander, what: str) -> None:
    assert what in broken(report(other))
    assert broken(report(other, number=10)) == []  # Redis is full: nobody is served


def test_memory_is_bounded_and_given_back() -> None:
    large, kept = replace(GOOD, peak=sizes(600, 1000)), replace(GOOD, after=sizes(180, 600))
    assert broken(report(seen(), memory=large)) == ["RSS 1.60 GB > 1.5 GB: api 600 + worker 1000 MB"]
    [what] = broken(report(seen(), memory=kept))
    assert what.startswith("RSS later 1.11 × the start > 1.1 ×: api 100 + worker 600 MB, later api 180")


def test_a_claim_that_does_not_hold_is_named() -> None:
    told = Told()
    told.expect("two lengths", "202", "400")
    told.expect("byte order mark", "400", "400")
    assert broken(report(seen(), number=14, told=told)) == ["two lengths: 202, not 400"]
