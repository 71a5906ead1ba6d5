"""What the plans of families with text share: the branches of a prompt, and the steps that write its rows."""

from __future__ import annotations

from engine.plans.guidance_schedule import is_guided
from engine.plans.rows import Condition, Row, Step, condition_at, longest
from engine.request import Request, TextFeatures

TEXT_ROWS = 64
"""Rows of one step of a condition, at most. A text is written in pieces, so that it does not stall other requests.
Constant, because a request's pieces must not depend on the other requests."""


def text_conditions(request: Request, *, null_id: int, null_rows: int) -> tuple[Condition, ...]:
    """Plan.conditions. null_id: the embedding id of the first of the null_rows unconditional vectors.

    The unconditional branch of a prompt of n rows has the last n unconditional vectors, as in training, where a dropped
    caption kept the padding of its own length in front. A negative prompt takes their place with all of its own rows,
    as it would be drawn itself: see Plan.absent where it is longer or shorter than the prompt. Without a prompt there
    is one branch, with all unconditional vectors.
    """
    if request.prompt is None:
        return (Condition(null_id, null_rows),)
    prompt = _of(request.prompt)
    if not is_guided(request):
        return (prompt,)
    if request.negative_prompt is not None:
        return (prompt, _of(request.negative_prompt))
    return (prompt, Condition(null_id + null_rows - prompt.rows, prompt.rows))


def _of(text: TextFeatures) -> Condition:
    return Condition(text, len(text.rows))


def condition_steps(conditions: tuple[Condition, ...]) -> tuple[list[Step], Row]:
    """The steps that write all condition rows but the last, each of which sees the rows before it and itself; and the
    last one, without a target. It decides a token, in a step of its own: pictures of one prompt share the rows before
    it."""
    *rows, last = (Row(condition_at(index), 0, index + 1, True) for index in range(longest(conditions)))
    return [Step(tuple(rows[start : start + TEXT_ROWS])) for start in range(0, len(rows), TEXT_ROWS)], last
