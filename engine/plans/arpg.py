"""ARPG's row program (arXiv 2503.10568 §3.2): content rows are cached, [MASK] query rows want logits."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise

from engine.noise import permutation
from engine.plans.guidance_schedule import conditions, guidance_scales
from engine.plans.rows import CONDITION, Plan, Row, Step, token_at
from engine.plans.schedule import step_counts
from engine.request import ContentAttention, Request

PREFILL_ROWS = 64
"""Rows of one step of a prefill. Fixed tokens are written in pieces, so that a long prefill does not stall other
requests. Constant, because a request's pieces must not depend on the other requests."""

PREFILL_CHUNK = 16
"""Fixed tokens that see each other both ways in a chunked prefill."""


def plan_arpg(
    request: Request,
    *,
    grid: tuple[int, int],
    mask_id: int,
    class_id: int,
    null_id: int,
    first_cell: int | None = None,
) -> Plan:
    """class_id: embedding id of the request's class, ignored when it is unconditional. first_cell: the cell that is
    drawn first, in a step of its own, unless it is fixed; for models that were trained so, because a query that sees
    only the condition can't tell its position."""
    order = request.order or _first(first_cell, _drawing_order(request, grid))
    counts = step_counts(len(order), request.steps, request.schedule)
    if order[0] == first_cell and not request.fixed_tokens:
        counts = _first_alone(counts)
    fixed = len(request.fixed_tokens) if request.guide_fixed_tokens else 0
    scales = guidance_scales(
        counts, fixed, request.guidance_scale, request.guidance_schedule, request.guidance_interval
    )
    ends = tuple(accumulate(counts, initial=0))
    chunks = [order[start:end] for start, end in pairwise(ends)]

    pieces = _prefill(request, grid, first_cell)
    # A drawing step writes the tokens of the step before it. The first one writes the last piece of the prefill, unless
    # it is also the last step, whose rows no other sequence can share.
    content = pieces.pop() if len(chunks) > 1 or not request.fixed_tokens else ()
    steps = [Step(piece) for piece in pieces]
    cached = sum(len(piece) for piece in pieces)
    for chunk, scale in zip(chunks, scales, strict=True):
        cached += len(content)
        queries = tuple(Row(mask_id, cell + 1, cached, False, cell) for cell in chunk)
        steps.append(Step(content + queries, scale))
        content = _content(chunk, cached, request.content_attention)
    return Plan(tuple(steps), conditions(request, class_id, null_id), cached)


def _first_alone(counts: tuple[int, ...]) -> tuple[int, ...]:
    """The first step draws one token; the second also draws the others of the first."""
    if len(counts) == 1:
        return counts
    first, second, *rest = counts
    return (1, first + second - 1, *rest)


def _content(chunk: tuple[int, ...], cached: int, attention: ContentAttention) -> tuple[Row, ...]:
    """Content rows of the tokens of one step, which see all tokens of the step or only the earlier ones."""
    ends = range(cached + 1, cached + len(chunk) + 1)
    return tuple(
        Row(token_at(cell), cell + 1, end if attention == "causal" else ends[-1], True)
        for cell, end in zip(chunk, ends, strict=True)
    )


def _drawing_order(request: Request, grid: tuple[int, int]) -> tuple[int, ...]:
    to_draw = (p for p in range(grid[0] * grid[1]) if p not in request.fixed_tokens)
    return _shuffled(request, request.seed, f"{request.task}/order", to_draw, grid[1])


def _shuffled(request: Request, seed: int, purpose: str, cells: Iterable[int], cols: int) -> tuple[int, ...]:
    """Shuffle by the cells' canvas positions where the grid is a window."""
    if request.window is None:
        return permutation(seed, purpose, cells)
    cell_at = {request.window.position(cell, cols): cell for cell in cells}
    return tuple(cell_at[position] for position in permutation(seed, purpose, cell_at))


def _first(cell: int | None, order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(order, key=lambda position: position != cell))


def _prefill(request: Request, grid: tuple[int, int], first_cell: int | None) -> list[tuple[Row, ...]]:
    """The condition and the fixed tokens, in pieces. The order is the same for every seed, so that pictures with the
    same fixed tokens can share these rows. Pieces end where a chunk ends."""
    fixed = _first(first_cell, _shuffled(request, 0, "known", request.fixed_tokens, grid[1]))
    if request.prefill == "block":
        size = 1 + len(fixed)
        return [(Row(CONDITION, 0, size, True), *(Row(token_at(cell), cell + 1, size, True) for cell in fixed))]
    chunk = 1 if request.prefill == "causal" else PREFILL_CHUNK
    rows = [Row(CONDITION, 0, 1, True)]
    for start in range(0, len(fixed), chunk):
        end = 1 + min(start + chunk, len(fixed))
        rows += [Row(token_at(cell), cell + 1, end, True) for cell in fixed[start : start + chunk]]
    first = PREFILL_ROWS if chunk == 1 else 1 + PREFILL_ROWS
    return [tuple(rows[:first])] + [tuple(rows[i : i + PREFILL_ROWS]) for i in range(first, len(rows), PREFILL_ROWS)]
