"""A part of the ten minutes of `python -m tests.abuse fuzz`."""

from __future__ import annotations

from tests.abuse.fuzz.run import Tally, examples

COUNT = 60


def test_every_upload_is_read_or_refused_in_time_and_within_memory() -> None:
    tally = Tally()
    examples(tally, COUNT, number=1)
    assert [what for what, _ in tally.broken] == []
    assert tally.outcomes.total() >= COUNT
