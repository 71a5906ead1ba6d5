"""The checker: every promise to clients as a rule over what happened, as Jepsen does it.

It knows neither the faults nor the service's code: a run without faults and one full of them have to look alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from tests.chaos.history import TERMINAL, Asked, Event, History, Outcome, View, Violation

Rule = Callable[[History, Mapping[str, Outcome]], Iterator[Violation]]


def check(history: History, expected: Mapping[str, Outcome]) -> list[Violation]:
    """expected: id → outcome of the run without faults; jobs that it lacks are not compared."""
    return [violation for rule in RULES for violation in rule(history, expected)]


def by_job(history: History) -> Iterator[tuple[str, Asked]]:
    for key, ids in history.accepted.items():
        for id in dict.fromkeys(ids):
            yield id, history.asked[key]


def one_job_a_key(history: History, _: Mapping[str, Outcome]) -> Iterator[Violation]:
    told: set[str] = set()
    for key in history.asked:
        ids = dict.fromkeys(history.accepted.get(key, ()))
        told |= ids.keys()
        if not ids:
            yield Violation("accepted", key, "was never accepted")
        if len(ids) > 1:
            yield Violation("idempotent", key, f"one key made {len(ids)} jobs: {', '.join(ids)}")
    for id in history.outcomes.keys() - told:
        yield Violation("ghost", id, "there is a job that nobody was told of")
    for id, events in history.streams.items():
        if (times := sum(event.name == "queued" and number(event.id)[0] == 0 for event in events)) > 1:
            yield Violation("idempotent", id, f"was queued {times} times before anybody began with it")


def every_job_ends(history: History, _: Mapping[str, Outcome]) -> Iterator[Violation]:
    for id, _asked in by_job(history):
        outcome = history.outcomes.get(id)
        if outcome is None:
            yield Violation("lost", id, "was accepted, and the service does not know it")
        elif outcome.state not in TERMINAL.values():
            yield Violation("not terminal", id, f"is still {outcome.state}")


def streams_end_once(history: History, _: Mapping[str, Outcome]) -> Iterator[Violation]:
    for id, outcome in history.outcomes.items():
        events = history.streams.get(id, [])
        yield from increasing("stream", id, events)
        ends = [event for event in events if event.name in TERMINAL]
        if outcome.state not in TERMINAL.values():
            if ends:
                yield Violation("terminal event", id, f"{ends[0].name} was said of a job that is {outcome.state}")
            continue
        if len(ends) != 1:
            yield Violation("terminal event", id, f"{len(ends)} terminal events")
        elif events[-1] is not ends[0]:
            yield Violation("terminal event", id, f"{events[-1].name} comes after {ends[0].name}")
        elif TERMINAL[ends[0].name] != outcome.state:
            yield Violation("terminal event", id, f"{ends[0].name}, and the job is {outcome.state}")


def last_attempt_is_whole(history: History, _: Mapping[str, Outcome]) -> Iterator[Violation]:
    """What a watcher paints from the last attempt's events (and the pictures that it says are kept) is the result."""
    for id, asked in by_job(history):
        outcome, events = history.outcomes.get(id), history.streams.get(id, [])
        if outcome is None or outcome.state != "succeeded" or not events:
            continue
        attempt = number(events[-1].id)[0]
        of_it = [event for event in events if number(event.id)[0] == attempt]
        started = [event for event in of_it if event.name == "started"]
        if [event.data["attempt"] for event in started] != [attempt]:
            yield Violation("whole", id, f"attempt {attempt} has started {len(started)} times")
            continue
        kept = set(started[0].data.get("kept", ()))
        if sorted(outcome.tokens) != list(range(asked.images)):
            yield Violation("whole", id, f"{len(outcome.tokens)} results of {asked.images} pictures")
        for index, tokens in outcome.tokens.items():
            if index not in kept:
                yield from painted(id, index, of_it, tokens)


def painted(id: str, index: int, events: Iterable[Event], tokens: list[list[int]]) -> Iterator[Violation]:
    flat = [token for row in tokens for token in row]
    said = [event.data for event in events if event.name == "tokens" and event.data["image_index"] == index]
    cells: dict[int, int] = {}
    step = 0
    for data in said:
        if data["step"] <= step or cells.keys() & set(data["positions"]):
            yield Violation("whole", id, f"picture {index}: step {data['step']} was told after step {step}")
            return
        step = data["step"]
        cells |= zip(data["positions"], data["tokens"], strict=True)
    if not said or said[-1]["n_done"] != said[-1]["n_total"] or len(cells) != said[-1]["n_total"]:
        yield Violation("whole", id, f"picture {index}: {len(cells)} tokens were told of the last attempt")
    elif any(flat[cell] != token for cell, token in cells.items()):
        yield Violation("whole", id, f"picture {index}: the tokens told are not the result's")


def readers_see_the_stream(history: History, _: Mapping[str, Outcome]) -> Iterator[Violation]:
    for view in history.views:
        yield from increasing("view", view.job, view.events)
        yield from seen(view, history.streams.get(view.job, []))


def seen(view: View, stream: list[Event]) -> Iterator[Violation]:
    if not view.ended:
        yield Violation("view", view.job, f"a reader of {len(view.events)} events was never told of the end")
        return
    theirs = [event.id for event in stream]
    # A preview gives way to the next one, and the last to the end: who was there has seen more of them than are left.
    there = [event for event in view.events if event.name != "preview" or event.id in set(theirs)]
    ours = [event.id for event in there]
    if ours != theirs:
        missing, more = [id for id in theirs if id not in ours], [id for id in ours if id not in theirs]
        yield Violation("view", view.job, f"a reader missed {missing[:5]} and saw besides {more[:5]}")
        return
    for event, truth in zip(there, stream, strict=True):
        shown = {name: value for name, value in event.data.items() if name in truth.data and name != "images"}
        whole = {name: value for name, value in truth.data.items() if name != "images"}
        if event.name != truth.name or shown != whole:
            yield Violation("view", view.job, f"event {event.id} was shown as another one")


def results_are_the_same(history: History, expected: Mapping[str, Outcome]) -> Iterator[Violation]:
    for id, outcome in history.outcomes.items():
        want = expected.get(id)
        if want is None or outcome.state != "succeeded":
            continue
        if outcome.tokens != want.tokens:
            yield Violation("result", id, "its tokens are not those of the run without faults")
        elif outcome.pictures != want.pictures:
            yield Violation("result", id, "its pictures are not those of the run without faults")


def cancelled_if_asked(history: History, _: Mapping[str, Outcome]) -> Iterator[Violation]:
    for id, outcome in history.outcomes.items():
        told = history.cancels.get(id)
        if outcome.state == "canceled" and told is None:
            yield Violation("cancel", id, "was cancelled, and nobody asked for it")
        for state in told or ():
            if state in TERMINAL.values() and state != outcome.state:
                yield Violation("cancel", id, f"who cancelled was told {state}, and it is {outcome.state}")


def only_poison_fails(history: History, _: Mapping[str, Outcome]) -> Iterator[Violation]:
    for id, asked in by_job(history):
        outcome = history.outcomes.get(id)
        if outcome is None:
            continue
        if outcome.error == "start_timeout" and asked.deadline:
            continue
        if asked.poison is None:
            if outcome.state == "failed":
                yield Violation("innocent", id, f"is harmless and failed: {outcome.error}")
        elif outcome.state == "succeeded":
            yield Violation("poison", id, "is poison and was drawn")
        elif outcome.state == "failed" and outcome.error not in asked.poison:
            yield Violation("poison", id, f"failed with {outcome.error}, not {' or '.join(sorted(asked.poison))}")


def none_starts_late(history: History, _: Mapping[str, Outcome]) -> Iterator[Violation]:
    for id, _asked in by_job(history):
        outcome = history.outcomes.get(id)
        if outcome is None:
            continue
        attempts = {number(event.id)[0] for event in history.streams.get(id, [])} - {0}
        if outcome.error == "start_timeout" and attempts:
            yield Violation("deadline", id, "ended for not having started, and had started")
        by, at = outcome.start_by, outcome.started_at
        if attempts == {1} and by is not None and at is not None and at >= by:
            yield Violation("deadline", id, f"started {at - by:.3f} s after its deadline")


def lists_are_whole(history: History, _: Mapping[str, Outcome]) -> Iterator[Violation]:
    known: dict[str, list[str]] = {}
    for id, asked in by_job(history):
        if id in history.outcomes:
            known.setdefault(asked.client, []).append(id)
    for client, ids in known.items():
        told = history.lists.get(client, [])
        if sorted(told) != sorted(ids):
            missing, more = set(ids) - set(told), [id for id in told if id not in ids or told.count(id) > 1]
            yield Violation("list", client, f"its list lacks {sorted(missing)[:5]} and has besides {more[:5]}")


def webhooks_arrive(history: History, _: Mapping[str, Outcome]) -> Iterator[Violation]:
    """At least once, and always with the state in which the job ended."""
    for id, asked in by_job(history):
        outcome, told = history.outcomes.get(id), history.called.get(id, [])
        if outcome is None or outcome.state not in TERMINAL.values():
            continue
        if asked.webhook != bool(told):
            yield Violation("webhook", id, f"was called {len(told)} times")
        elif set(told) - {outcome.state}:
            yield Violation("webhook", id, f"told {' and '.join(sorted(set(told)))}, and it is {outcome.state}")


def nothing_is_left(history: History, _: Mapping[str, Outcome]) -> Iterator[Violation]:
    for what, amount in history.leftovers.items():
        if amount:
            yield Violation("leftover", "", f"{what} holds {amount:g}")


def no_complaints(history: History, _: Mapping[str, Outcome]) -> Iterator[Violation]:
    for complaint in history.complaints:
        yield Violation("answer", "", complaint)


def increasing(rule: str, id: str, events: Iterable[Event]) -> Iterator[Violation]:
    before = (-1, -1)
    for event in events:
        if number(event.id) <= before:
            yield Violation(rule, id, f"event {event.id} comes after {before[0]}-{before[1]}")
        before = number(event.id)


def number(event_id: str) -> tuple[int, int]:
    attempt, _, sequence = event_id.partition("-")
    return int(attempt), int(sequence)


RULES: tuple[Rule, ...] = (
    one_job_a_key,
    every_job_ends,
    streams_end_once,
    last_attempt_is_whole,
    readers_see_the_stream,
    results_are_the_same,
    cancelled_if_asked,
    only_poison_fails,
    none_starts_late,
    lists_are_whole,
    webhooks_arrive,
    nothing_is_left,
    no_complaints,
)
