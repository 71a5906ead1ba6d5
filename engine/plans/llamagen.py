"""LlamaGen's row program (arXiv 2406.06525): raster order; each step has one row, which carries a token and decides the
next."""

from __future__ import annotations

from engine.plans.guidance_schedule import conditions, guidance_scales
from engine.plans.rows import CONDITION, Plan, Row, Step, token_at
from engine.request import Request


def plan_llamagen(request: Request, *, positions: int, class_id: int, null_id: int) -> Plan:
    """The class decides cell 0, the token at cell i decides cell i + 1; the last token is never cached."""
    scales = guidance_scales((1,) * positions, 0, request.guidance_scale, "constant", request.guidance_interval)
    sources = (CONDITION, *(token_at(cell) for cell in range(positions - 1)))
    # The row of a step carries cell - 1, whose rotary position is cell; for cell 0 that is the condition's.
    steps = tuple(
        Step((Row(source, position=cell, visible=cell + 1, cached=True, target=cell),), scale)
        for cell, (source, scale) in enumerate(zip(sources, scales, strict=True))
    )
    return Plan(steps, conditions(request, class_id, null_id), cached_rows=positions)
