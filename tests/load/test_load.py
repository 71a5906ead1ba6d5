"""The load test's verdict, on series, streams and records with known results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.load.growth import growth
from tests.load.record import JobNote, Record, Sample
from tests.load.shares import always_waiting, of_fair_share
from tests.load.verdict import MAX_GROWTH, Leftovers, Phase, Verdict, judge
from tests.load.watch import GENERATOR
from tests.load.web import Reader

EVERY = 5.0  # s between samples
MINUTES = 15
TEN_MINUTES = 600.0
LEVEL = 500e6


def series(growth: float, alike: float, seed: int, deviation: float) -> tuple[Any, Any]:
    """Times and memory of a process for MINUTES.

    growth: a share of LEVEL in ten minutes. alike: correlation of neighbours. deviation: scatter, in bytes.
    """
    random = np.random.default_rng(seed)
    times = np.arange(0, MINUTES * 60, EVERY)
    noise = np.empty(len(times))
    held = random.normal(0, deviation)
    for i in range(len(noise)):
        held = alike * held + random.normal(0, deviation * np.sqrt(1 - alike**2))
        noise[i] = held
    return times, LEVEL * (1 + growth * times / TEN_MINUTES) + noise


def test_the_slope_of_a_straight_line_is_exact() -> None:
    found = growth(*series(0.02, 0, 0, deviation=0))
    assert found.slope == pytest.approx(0.02 * LEVEL / TEN_MINUTES)
    # The level is the median: the line's value at half time.
    assert found.share(TEN_MINUTES) == pytest.approx(0.02 * LEVEL / found.level)


@pytest.mark.parametrize(("leak", "passes"), [(0.0, True), (0.02, False), (0.05, False)])
def test_a_leak_is_told_from_none(leak: float, passes: bool) -> None:
    """At the scatter that the docstring of growth names."""
    found = [growth(*series(leak, 0.8, seed, deviation=0.005 * LEVEL)).share(TEN_MINUTES) for seed in range(200)]
    assert np.mean([(each < MAX_GROWTH) == passes for each in found]) >= 0.98
    assert np.std(found) == pytest.approx(0.003, abs=0.001)


def test_growth_by_steps_is_growth() -> None:
    """An allocator asks for memory like this: nothing for minutes, then much at once."""
    times: Any = np.arange(180) * EVERY
    values: Any = LEVEL * (1 + 0.01 * np.floor(times / 200))
    assert growth(times, values).share(TEN_MINUTES) > MAX_GROWTH


def test_a_short_peak_is_no_growth() -> None:
    times, values = series(0, 0, 0, deviation=0)
    values[-20:] *= 1.5
    assert growth(times, values).share(TEN_MINUTES) == 0


def test_too_few_samples_show_no_growth() -> None:
    with pytest.raises(ValueError, match="10 samples"):
        growth([0, 1, 2], [1, 1, 1])


def test_shares_go_by_weight_among_those_who_always_wait() -> None:
    looks = [{"a", "b", "c"}] * 99 + [{"a", "b"}]
    got = {"a": 10.0, "b": 40.0, "c": 10.0, "guest": 400.0}
    weights = {"a": 1, "b": 4, "c": 1, "guest": 1}
    assert of_fair_share(got, weights, looks) == pytest.approx({"a": 1.0, "b": 1.0, "c": 1.0})


def test_whoever_got_less_than_half_shows() -> None:
    shares = of_fair_share({"a": 9, "b": 1}, {"a": 1, "b": 1}, [{"a", "b"}] * 10)
    assert shares == pytest.approx({"a": 1.8, "b": 0.2})


def test_who_got_nothing_at_all_has_share_0() -> None:
    assert of_fair_share({"a": 9}, {"a": 1, "b": 1}, [{"a", "b"}] * 10)["b"] == 0
    assert of_fair_share({}, {"a": 1, "b": 1}, [{"a", "b"}] * 10) == {"a": 0, "b": 0}


def test_who_paused_has_no_claim() -> None:
    assert always_waiting([{"a", "b"}] * 90 + [{"a"}] * 10) == {"a"}


def told(*events: str) -> Reader:
    """Returns a reader of one connection. Each event is `id name` or a name alone."""
    reader = Reader()
    for event in events:
        id, _, name = event.rpartition(" ")
        reader.feed((f"id: {id}\n" if id else "").encode() + f"event: {name}\ndata: {{}}\n\n".encode())
    return reader


def test_a_stream_that_ends_with_its_terminal_event_is_well() -> None:
    reader = told("0-1 queued", "1-1 started", "heartbeat", "1-2 completed")
    assert reader.leave() == "closed after the end"
    assert (reader.terminals, reader.wrong, reader.last) == (1, "", "1-2")


@pytest.mark.parametrize("events", [["1-1 started", "1-1 tokens"], ["2-1 started", "1-9 tokens"], ["x tokens"]])
def test_an_event_out_of_order_shows(events: list[str]) -> None:
    assert told(*events).wrong == "an event out of order"


@pytest.mark.parametrize("last", ["1-3 tokens", "1-3 failed", "error"])
def test_an_event_after_the_end_shows(last: str) -> None:
    assert told("1-2 completed", last).wrong == "an event after the end"


def test_a_stream_that_stops_without_a_word_shows() -> None:
    reader = told("1-1 started")
    reader.leave()
    assert reader.wrong == "a stream ended without an announcement"


@pytest.mark.parametrize("word", ["reconnect", "error"])
def test_a_stream_that_says_why_it_stops_may_be_resumed(word: str) -> None:
    reader = told("1-1 started", word)
    reader.leave()
    assert (reader.wrong, reader.ended, reader.last) == ("", False, "1-1")


def test_half_an_event_is_forgotten_with_its_connection() -> None:
    reader = told("1-1 started")
    reader.feed(b"event: completed\nid: 1-")
    reader.hang_up()
    reader.feed(b"event: tokens\nid: 1-2\n\n")
    assert (reader.terminals, reader.last, reader.wrong) == (0, "1-2", "")


CAPACITY, LOAD = (Phase(0, 100, 400), Phase(500, 600, 800)), Phase(1000, 1300, 2200)
WEIGHTS = {"a": 1.0, "b": 1.0}


def recorded(
    *,
    every: float = 10.0,
    less_of_b: int = 1,
    leak: float = 0.0,
    customers: tuple[int, ...] = (0, 1),
) -> Record:
    """A good run: in the better capacity phase each client has a job every 10 s. Before the load has settled
    nothing is drawn and the memory fills; that is not judged. every: seconds between jobs afterwards.
    less_of_b: jobs of a for each job of b.
    leak: of the service's memory, in 10 minutes. customers: of each client, in turn."""
    record = Record()

    def drawn(begin: float, end: float, pause: float) -> None:
        for index, when in enumerate(np.arange(begin, end, pause).tolist()):
            for client in ("a", "b") if index % less_of_b == 0 else ("a",):
                customer = f"{client}{customers[index // less_of_b % len(customers)]}"
                job = JobNote(client, "generate", "succeeded", 512, 1, when - 2, when - 1, when, customer)
                record.jobs[f"{client}{when}"] = job

    drawn(0, 400, 10)
    drawn(500, 800, 15)
    drawn(LOAD.settled, LOAD.end, every)
    random = np.random.default_rng(0)
    for when in np.arange(1000, 2200, 5.0).tolist():
        rss = {
            "arpg": int(LEVEL * (min(when / LOAD.settled, 1) + leak * when / TEN_MINUTES) + random.normal(0, 1e5)),
            GENERATOR: round(1e5 * when),
        }
        cpu = {"arpg": when, GENERATOR: when / 10}
        record.samples.append(Sample(when, rss, cpu, {"a": 3, "b": 1}, {}))
    record.streams["ended with one terminal event"] = 5
    return record


def broken(verdict: Verdict) -> list[str]:
    return [promise.name for promise in verdict.promises if promise.kept is False]


def test_a_run_in_which_all_is_well_keeps_every_promise() -> None:
    verdict = judge(recorded(), CAPACITY, LOAD, WEIGHTS, Leftovers(), 0)
    assert verdict.kept
    assert all(promise.kept for promise in verdict.promises)


def test_what_is_broken_is_named() -> None:
    def names(record: Record, left: Leftovers | None = None, status: int = 0) -> str:
        verdict = judge(record, CAPACITY, LOAD, WEIGHTS, left or Leftovers(), status)
        assert not verdict.kept
        return " ".join(broken(verdict))

    assert "completed rate" in names(recorded(every=13))
    assert "fair share" in names(recorded(every=5, less_of_b=4))
    assert "no customer below" in names(recorded(customers=(0, 0, 0, 0, 1)))
    assert names(recorded(leak=0.03)) == "memory of arpg grows less than 1% in 10 minutes"
    assert names(recorded(), Leftovers(queue={"leases": 1})) == "queue empty at the end"
    assert names(recorded(), Leftovers(store={"job keys": 1})) == "every key expires on time"
    assert names(recorded(), Leftovers(held=2**20)) == "the store does not grow"
    assert "stopped on SIGTERM" in names(recorded(), status=1)

    failing, lost, busy, cheap = recorded(), recorded(), recorded(), recorded()
    for job in cheap.jobs.values():
        job.cost //= 1 if job.finished < LOAD.begin else 2  # the same number of pictures, half the cost
    assert "completed rate" in names(cheap)
    failing.fails("events of vary: a stream ended without an announcement", "")
    assert "no error" in names(failing)
    assert "every stream" in names(failing)
    lost.accepted("lost", "a", "generate")
    assert names(lost) == "every accepted job has ended"
    busy.samples = [Sample(s.time, s.rss, {**s.cpu, GENERATOR: s.time}, s.waiting, {}) for s in busy.samples]
    assert "generator takes less" in names(busy)


def test_without_keys_nothing_is_said_of_shares() -> None:
    verdict = judge(recorded(less_of_b=4), CAPACITY, LOAD, {}, Leftovers(), 0)
    [fairness] = [promise for promise in verdict.promises if "fair share" in promise.name]
    assert fairness.kept is None
    assert verdict.kept
