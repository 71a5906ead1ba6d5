"""ARPG's row program (arXiv 2503.10568 §3.2): content rows are cached, [MASK] query rows want logits."""

from __future__ import annotations

from itertools import accumulate, pairwise

from engine.noise import permutation
from engine.plans.guidance import conditions, guidance_scales
from engine.plans.rows import CONDITION, Plan, Row, Step, token_at
from engine.plans.schedule import step_counts
from engine.request import ContentAttention, Request

PREFILL_ROWS = 64
"""Known tokens enter the cache in pieces of this size, so that a long prefill stalls nobody. A constant: the
pieces of a request must not depend on who else is served."""


def plan_arpg(
    request: Request, *, positions: int, mask_id: int, class_id: int, null_id: int, first_cell: int | None = None
) -> Plan:
    """class_id: embedding id of the request's class (ignored when it is unconditional). first_cell: the cell that
    comes first where it may, in a step of its own, for a model trained so: a query that sees the condition alone
    can't tell where it is."""
    order = request.order or _first(first_cell, _drawing_order(request, positions))
    counts = step_counts(len(order), request.steps, request.schedule)
    if order[0] == first_cell and not request.known:
        counts = _first_alone(counts)
    scales = guidance_scales(
        counts, len(request.known), request.guidance_scale, request.guidance_schedule, request.guidance_interval
    )
    ends = tuple(accumulate(counts, initial=0))
    chunks = [order[start:end] for start, end in pairwise(ends)]

    *pieces, content = _prefill(request, first_cell)
    steps = [Step(piece) for piece in pieces]
    cached = sum(len(piece) for piece in pieces)
    for chunk, scale in zip(chunks, scales, strict=True):
        cached += len(content)
        queries = tuple(Row(mask_id, cell + 1, cached, False, cell) for cell in chunk)
        steps.append(Step(content + queries, scale))
        content = _content(chunk, cached, request.content_attention)
    return Plan(tuple(steps), conditions(request, class_id, null_id), cached)


def _first_alone(counts: tuple[int, ...]) -> tuple[int, ...]:
    """The first step draws one token, the second what the first would have drawn beside it."""
    if len(counts) == 1:
        return counts
    first, second, *rest = counts
    return (1, first + second - 1, *rest)


def _content(chunk: tuple[int, ...], cached: int, attention: ContentAttention) -> tuple[Row, ...]:
    """The tokens of one step: they see each other both ways, or the earlier ones alone."""
    ends = range(cached + 1, cached + len(chunk) + 1)
    return tuple(
        Row(token_at(cell), cell + 1, end if attention == "causal" else ends[-1], True)
        for cell, end in zip(chunk, ends, strict=True)
    )


def _drawing_order(request: Request, positions: int) -> tuple[int, ...]:
    unknown = (p for p in range(positions) if p not in request.known)
    return permutation(request.seed, f"{request.task}/order", unknown)


def _first(cell: int | None, order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(order, key=lambda position: position != cell))


def _prefill(request: Request, first_cell: int | None) -> list[tuple[Row, ...]]:
    """The condition and the known tokens, causal in a random order as in training; that order is the same for
    every seed, so that pictures that start from the same tokens can share these rows."""
    known = _first(first_cell, permutation(0, "known", request.known))
    rows = [Row(CONDITION, 0, 1, True)]
    rows += [Row(token_at(cell), cell + 1, index, True) for index, cell in enumerate(known, start=2)]
    return [tuple(rows[i : i + PREFILL_ROWS]) for i in range(0, len(rows), PREFILL_ROWS)]
