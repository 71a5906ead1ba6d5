"""The checker passes a good history and reports each kind of violation."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.chaos.checker import check
from tests.chaos.history import Asked, Event, History, Outcome, View

TOKENS = [[1, 2], [3, 4]]


def tokens(step: int, *, image: int = 0) -> dict[str, Any]:
    cells = [2 * step - 2, 2 * step - 1]
    told = [TOKENS[0], TOKENS[1]][step - 1]
    return {"image_index": image, "step": step, "positions": cells, "tokens": told, "n_done": 2 * step, "n_total": 4}


def good() -> History:
    """A job whose second attempt finished it, with a reader that reconnected; a cancelled job; a poison job."""
    drawn = [
        Event("0-1", "queued", {"position": 0}),
        Event("1-1", "started", {"attempt": 1, "images": 1}),
        Event("1-2", "tokens", tokens(1)),
        Event("1-3", "queued", {"position": 0}),
        Event("2-1", "started", {"attempt": 2, "images": 1}),
        Event("2-2", "tokens", tokens(1)),
        Event("2-3", "tokens", tokens(2)),
        Event("2-4", "completed", {"images": [{"index": 0}]}),
    ]
    cancelled = [Event("0-1", "queued", {"position": 1}), Event("0-2", "canceled", {})]
    poison = [Event("0-1", "queued", {"position": 1}), Event("3-1", "failed", {"error": {"code": "worker_lost"}})]
    return History(
        asked={
            "a": Asked("a", 1, client="ann", webhook=True),
            "b": Asked("b", 1, client="ann"),
            "c": Asked("c", 1, frozenset({"worker_lost"}), client="bob"),
        },
        accepted={"a": ["A", "A"], "b": ["B"], "c": ["C"]},
        cancels={"B": ["canceled"]},
        views=[View("A", list(drawn), connections=2, ended=True)],
        streams={"A": drawn, "B": cancelled, "C": poison},
        outcomes={
            "A": Outcome("succeeded", tokens={0: TOKENS}, pictures={0: "digest"}),
            "B": Outcome("canceled"),
            "C": Outcome("failed", "worker_lost"),
        },
        lists={"ann": ["B", "A"], "bob": ["C"]},
        called={"A": ["succeeded", "succeeded"]},
        leftovers={"ready:m": 0},
    )


EXPECTED = {"A": Outcome("succeeded", tokens={0: TOKENS}, pictures={0: "digest"})}


def test_a_good_history_is_good() -> None:
    assert check(good(), EXPECTED) == []


def forget_job(history: History) -> None:
    del history.outcomes["A"], history.streams["A"]


def leave_running(history: History) -> None:
    history.outcomes["A"].state = "running"
    history.streams["A"].pop()


def say_the_end_twice(history: History) -> None:
    history.streams["B"].append(Event("0-3", "canceled", {}))


def speak_after_the_end(history: History) -> None:
    history.streams["B"].append(Event("0-3", "started", {"attempt": 1}))


def end_as_something_else(history: History) -> None:
    history.outcomes["B"].state = "failed"


def end_unsaid(history: History) -> None:
    history.streams["B"].pop()


def swap_ids(history: History) -> None:
    events = history.streams["B"]
    events[0], events[1] = Event("0-2", "queued", {}), Event("0-1", "canceled", {})


def repeat_an_event(history: History) -> None:
    history.views[0].events.insert(3, history.views[0].events[2])


def miss_an_event(history: History) -> None:
    del history.views[0].events[2]


def show_another_event(history: History) -> None:
    history.views[0].events[2] = Event("1-2", "tokens", tokens(2))


def never_tell_the_end(history: History) -> None:
    history.views[0].ended = False


def finish_early(history: History) -> None:
    """As if a late write of an old attempt ended the job: the current attempt has not drawn all tokens."""
    del history.streams["A"][6], history.views[0].events[6]


def start_twice(history: History) -> None:
    for events in (history.streams["A"], history.views[0].events):
        events.insert(5, Event("2-1", "started", {"attempt": 2}))


def tell_a_step_twice(history: History) -> None:
    for events in (history.streams["A"], history.views[0].events):
        events[6] = Event("2-3", "tokens", tokens(1) | {"n_done": 4})


def tell_other_tokens(history: History) -> None:
    for events in (history.streams["A"], history.views[0].events):
        events[6] = Event("2-3", "tokens", tokens(2) | {"tokens": [9, 9]})


def lack_a_picture(history: History) -> None:
    history.outcomes["A"].tokens = {}


def draw_something_else(history: History) -> None:
    history.outcomes["A"].pictures = {0: "another"}


def draw_other_tokens(history: History) -> None:
    """Events and result agree, so only the run without faults shows the violation."""
    history.outcomes["A"].tokens = {0: [[5, 5], [5, 5]]}
    for events in (history.streams["A"], history.views[0].events):
        events[5] = Event("2-2", "tokens", tokens(1) | {"tokens": [5, 5]})
        events[6] = Event("2-3", "tokens", tokens(2) | {"tokens": [5, 5]})


def cancel_unasked(history: History) -> None:
    history.cancels.clear()


def cancel_in_vain(history: History) -> None:
    """The client was told that the job is cancelled, but the job succeeded."""
    history.cancels["A"] = ["canceled"]


def kill_an_innocent(history: History) -> None:
    history.outcomes["A"] = Outcome("failed", "worker_lost")
    for events in (history.streams["A"], history.views[0].events):
        events[-1] = Event("2-4", "failed", {})


def draw_poison(history: History) -> None:
    history.outcomes["C"] = Outcome("succeeded")
    history.asked["c"] = Asked("c", 0, frozenset({"worker_lost"}))
    history.streams["C"][1:] = [Event("1-1", "started", {"attempt": 1}), Event("1-2", "completed", {"images": []})]


def fail_otherwise(history: History) -> None:
    history.outcomes["C"].error = "internal_error"


def make_two_jobs(history: History) -> None:
    history.accepted["b"] = ["B", "C"]
    history.accepted["c"] = ["C"]


def make_a_ghost(history: History) -> None:
    history.outcomes["G"] = Outcome("canceled")
    history.streams["G"] = history.streams["B"]
    history.cancels["G"] = []


def take_it_twice(history: History) -> None:
    for events in (history.streams["A"], history.views[0].events):
        events.insert(1, Event("0-2", "queued", {"position": 0}))


def never_accept(history: History) -> None:
    history.asked["d"] = Asked("d", 1)


def leave_a_lease(history: History) -> None:
    history.leftovers["leases:m"] = 1


def start_late(history: History) -> None:
    history.asked["b"] = Asked("b", 1, client="ann", deadline=True)
    history.outcomes["B"].start_by, history.outcomes["B"].started_at = 5.0, 5.001
    history.streams["B"].insert(1, Event("1-1", "started", {"attempt": 1}))
    history.streams["B"][2] = Event("1-2", "canceled", {})


def end_for_its_deadline_though_it_started(history: History) -> None:
    history.asked["c"] = Asked("c", 1, client="bob", deadline=True)
    history.outcomes["C"] = Outcome("failed", "start_timeout", start_by=5.0)


def time_out_without_a_deadline(history: History) -> None:
    history.outcomes["B"] = Outcome("failed", "start_timeout")
    history.streams["B"][1] = Event("0-2", "failed", {})


def leave_a_job_out_of_the_list(history: History) -> None:
    history.lists["ann"].remove("B")


def list_a_job_twice(history: History) -> None:
    history.lists["ann"].append("A")


def call_no_webhook(history: History) -> None:
    history.called.clear()


def tell_another_end(history: History) -> None:
    history.called["A"] = ["succeeded", "failed"]


def complain(history: History) -> None:
    history.complaints.append("POST /v1/generate: 500")


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (forget_job, "lost"),
        (leave_running, "not terminal"),
        (say_the_end_twice, "terminal event"),
        (speak_after_the_end, "terminal event"),
        (end_as_something_else, "terminal event"),
        (end_unsaid, "terminal event"),
        (swap_ids, "stream"),
        (repeat_an_event, "view"),
        (miss_an_event, "view"),
        (show_another_event, "view"),
        (never_tell_the_end, "view"),
        (finish_early, "whole"),
        (start_twice, "whole"),
        (tell_a_step_twice, "whole"),
        (tell_other_tokens, "whole"),
        (lack_a_picture, "whole"),
        (draw_something_else, "result"),
        (draw_other_tokens, "result"),
        (cancel_unasked, "cancel"),
        (cancel_in_vain, "cancel"),
        (kill_an_innocent, "innocent"),
        (draw_poison, "poison"),
        (fail_otherwise, "poison"),
        (make_two_jobs, "idempotent"),
        (make_a_ghost, "ghost"),
        (take_it_twice, "idempotent"),
        (never_accept, "accepted"),
        (start_late, "deadline"),
        (end_for_its_deadline_though_it_started, "deadline"),
        (time_out_without_a_deadline, "innocent"),
        (leave_a_job_out_of_the_list, "list"),
        (list_a_job_twice, "list"),
        (call_no_webhook, "webhook"),
        (tell_another_end, "webhook"),
        (leave_a_lease, "leftover"),
        (complain, "answer"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_violation_is_seen(spoil: Callable[[History], None], rule: str) -> None:
    history = deepcopy(good())
    spoil(history)
    assert rule in {violation.rule for violation in check(history, EXPECTED)}


def test_a_picture_that_is_kept_need_not_be_drawn_again() -> None:
    history = good()
    for events in (history.streams["A"], history.views[0].events):
        events[4] = Event("2-1", "started", {"attempt": 2, "images": 1, "kept": [0]})
        del events[5:7]
    assert check(history, EXPECTED) == []


def test_a_reader_may_have_seen_previews_that_gave_way_and_nothing_else() -> None:
    shown = Event("2-2", "preview", {"image_index": 0, "step": 1})
    history = good()
    for events in (history.streams["A"], history.views[0].events):
        events[5:] = [Event(f"2-{number}", e.name, e.data) for number, e in enumerate(events[5:], start=3)]
    history.views[0].events.insert(5, shown)
    assert check(history, EXPECTED) == []
    history.views[0].events[5] = Event("2-2", "tokens", shown.data)
    assert {violation.rule for violation in check(history, EXPECTED)} == {"view"}
    history.views[0].events.pop(5)
    history.streams["A"].insert(5, shown)
    assert {violation.rule for violation in check(history, EXPECTED)} == {"view"}
