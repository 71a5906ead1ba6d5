"""PAR's row program (arXiv 2412.15119): regions drawn side by side; each step draws one token of every region."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

from engine.plans.guidance_schedule import conditions, guidance_scales
from engine.plans.rows import CONDITION, Plan, Row, Step, token_at
from engine.request import Request

Groups = tuple[tuple[int, ...], ...]


def region_groups(grid: tuple[int, int], regions: int) -> Groups:
    """The cells in drawing order: group k holds the k-th cell (row-major) of every region. The grid is cut into
    √regions parts along each axis. Raises ValueError when it can't be."""
    rows, cols = grid
    side = isqrt(max(regions, 0))
    if regions < 2 or side**2 != regions or rows % side or cols % side:
        raise ValueError(f"regions: {regions} equal regions, a square number above 1, do not tile {rows}×{cols} cells")
    height, width = rows // side, cols // side
    corners = [(row, col) for row in range(0, rows, height) for col in range(0, cols, width)]
    return tuple(
        tuple((top + row) * cols + left + col for top, left in corners) for row in range(height) for col in range(width)
    )


def plan_par(request: Request, *, groups: Groups, special_ids: Sequence[int], class_id: int, null_id: int) -> Plan:
    """The first group is drawn token by token. Then each block of rows decides a whole group, and its rows see each
    other both ways. The first block is the last token drawn and the special tokens, one for each other region; later
    blocks are the tokens of the group before."""
    first, *later = groups
    blocks = [[_CONDITION], *([_token(cell)] for cell in first[:-1])]
    targets = [*((cell,) for cell in first), *later]
    if later:
        blocks += [[_token(first[-1]), *((special, 0) for special in special_ids)]]
        blocks += [[_token(cell) for cell in group] for group in later[:-1]]
    counts = tuple(map(len, targets))
    scales = guidance_scales(counts, 0, request.guidance_scale, "constant", request.guidance_interval)

    steps = []
    cached = 0
    for block, cells, scale in zip(blocks, targets, scales, strict=True):
        cached += len(block)
        rows = (Row(*row, cached, True, cell) for row, cell in zip(block, cells, strict=True))
        steps.append(Step(tuple(rows), scale))
    return Plan(tuple(steps), conditions(request, class_id, null_id), cached)


# Source and position of a row. Special tokens have the position of the condition.
_CONDITION = (CONDITION, 0)


def _token(cell: int) -> tuple[int, int]:
    return token_at(cell), cell + 1
