"""ARPG's row program (arXiv 2503.10568 §3.2): content rows are cached, [MASK] query rows want logits."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise

from engine.noise import permutation
from engine.plans.guidance_schedule import guidance_scales
from engine.plans.rows import Condition, Plan, Row, Step, condition_at, longest, token_at
from engine.plans.schedule import step_counts
from engine.request import ContentAttention, Request

PREFILL_ROWS = 64
"""Rows of one step of a prefill. A text and fixed tokens are written in pieces, so that a long prefill does not stall
other requests. Constant, because a request's pieces must not depend on the other requests."""

PREFILL_CHUNK = 16
"""Fixed tokens that see each other both ways in a chunked prefill."""


def plan_arpg(
    request: Request,
    *,
    grid: tuple[int, int],
    mask_id: int,
    conditions: tuple[Condition, ...],
    first_cell: int | None = None,
) -> Plan:
    """conditions: see Plan. first_cell: the cell that is drawn first, in a step of its own, unless it is fixed; for
    models that were trained so, because a query that sees only a class can't tell its position."""
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

    pieces = _prefill(request, grid, first_cell, longest(conditions))
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
    return Plan(tuple(steps), conditions, cached)


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


def _prefill(
    request: Request, grid: tuple[int, int], first_cell: int | None, condition_rows: int
) -> list[tuple[Row, ...]]:
    """The condition and behind it the fixed tokens, in pieces. The order is the same for every seed, so that pictures
    with the same fixed tokens can share these rows. Pieces end where a chunk ends.

    A condition row sees the ones before it and itself, as in training, and in a block all fixed tokens, too. A text
    has pieces of its own, so that pictures of one prompt share its rows whatever is fixed; a class has no row to spare.
    """
    fixed = _first(first_cell, _shuffled(request, 0, "known", request.fixed_tokens, grid[1]))
    if request.prefill == "block" and fixed:
        size = condition_rows + len(fixed)
        text = (Row(condition_at(index), 0, size, True) for index in range(condition_rows))
        return [(*text, *(Row(token_at(cell), cell + 1, size, True) for cell in fixed))]
    rows = [Row(condition_at(index), 0, index + 1, True) for index in range(condition_rows)]
    chunk = 1 if request.prefill == "causal" else PREFILL_CHUNK
    for start in range(0, len(fixed), chunk):
        end = condition_rows + min(start + chunk, len(fixed))
        rows += [Row(token_at(cell), cell + 1, end, True) for cell in fixed[start : start + chunk]]
    own = condition_rows if condition_rows > 1 else 0
    begin = own + (PREFILL_ROWS if chunk == 1 or own else 1 + PREFILL_ROWS)
    starts = [*range(0, own, PREFILL_ROWS), own, *range(begin, len(rows), PREFILL_ROWS)]
    return [tuple(rows[start:end]) for start, end in pairwise([*starts, len(rows)]) if start < end]
