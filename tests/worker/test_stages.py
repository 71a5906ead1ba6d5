"""The stages of a job add up, whichever of them it has."""

from __future__ import annotations

import pytest

from service.worker.stages import Stages


@pytest.mark.parametrize("encoded", [None, 14.0])
def test_the_stages_add_up_to_the_time_since_acceptance(encoded: float | None) -> None:
    stages = Stages(2.0, claimed=10.0, loaded=11.0, encoded=encoded, first_tokens=15.0, last_tokens=17.0)
    timings = stages.of_success(made=18.0, now=20.0)
    assert timings.pop("first_tokens_seconds") == stages.since_acceptance(15.0) == 7.0
    assert sum(timings.values()) == stages.since_acceptance(20.0) == 12.0
    assert timings.get("encode_seconds") == (None if encoded is None else 3.0)
    assert timings["draw_seconds"] == (6.0 if encoded is None else 3.0)
    assert stages.so_far() == {"first_tokens_seconds": 7.0} | {
        name: value for name, value in timings.items() if name not in ("decode_seconds", "store_seconds")
    }


def test_an_attempt_that_is_left_tells_the_stages_that_it_reached() -> None:
    stages = Stages(2.0, claimed=10.0)
    assert stages.so_far() == {"queue_seconds": 2.0}
    stages.loaded = 11.0
    assert stages.so_far() == {"queue_seconds": 2.0, "load_seconds": 1.0}
