"""LlamaGen's row program (arXiv 2406.06525): raster order; each drawing step has one row, which carries a token and
decides the next."""

from __future__ import annotations

from engine.plans.guidance_schedule import guidance_scales
from engine.plans.rows import Condition, Plan, Row, Step, token_at
from engine.plans.text import condition_steps
from engine.request import Request


def plan_llamagen(request: Request, *, positions: int, conditions: tuple[Condition, ...]) -> Plan:
    """The class, or the last row of the text, decides cell 0; the token at cell i decides cell i + 1; the last token is
    never cached. conditions: see Plan."""
    scales = guidance_scales((1,) * positions, 0, request.guidance_scale, "constant", request.guidance_interval)
    steps, last = condition_steps(conditions)
    # The row of a step carries cell - 1, whose rotary position is cell; for cell 0 that is the condition's.
    drawing = [
        last._replace(target=0),
        *(Row(token_at(cell - 1), cell, last.visible + cell, True, cell) for cell in range(1, positions)),
    ]
    steps += [Step((row,), scale) for row, scale in zip(drawing, scales, strict=True)]
    return Plan(tuple(steps), conditions, cached_rows=last.visible + positions - 1)
