"""LlamaGen text-to-image: a prompt's embeddings are the first rows of its branch."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.core.sequence import SequenceState
from engine.models.layers import rotary_table
from engine.plans import Plan, Row, Step, condition_at, token_at
from engine.request import Request
from tests.engine.families_to_come.toy import CELLS, DIM, GRID, HEADS, VOCAB, Drawing, Toy, causal

LONGEST = 12
"""Rows of a prompt at most; 120 in the published model."""
NO_TEXT = VOCAB
"""The first embedding id of the unconditional text; behind it are the texts of current requests."""
POOL = NO_TEXT + LONGEST
SCALE = 3.0


def plan_text(first: int, length: int) -> Plan:
    """first: embedding id of the text's first row. The last text row decides cell 0, in a step of its own, so that
    pictures of the same prompt share the rows before it. The unconditional text depends on the prompt's length."""
    text = [Row(condition_at(index), 0, index + 1, True) for index in range(length)]
    steps = [Step(tuple(text[:-1])), Step((text[-1]._replace(target=0),), SCALE)]
    drawn = (Row(token_at(cell - 1), cell, length + cell, True, cell) for cell in range(1, CELLS))
    steps += [Step((row,), SCALE) for row in drawn]
    return Plan(tuple(steps), (first, NO_TEXT + LONGEST - length), cached_rows=length + CELLS - 1)


def expected(toy: Toy, sequence: SequenceState, length: int) -> dict[int, Tensor]:
    tokens = sequence.tokens.tolist()[:-1]
    positions = [0] * length + list(range(1, CELLS))
    branches = [
        toy.plain([*range(first, first + length), *tokens], positions, causal(len(positions)))[length - 1 :]
        for first in sequence.plan.conditions
    ]
    return dict(enumerate(torch.stack(branches, dim=1)))


def test_prompts_of_any_length_are_rows_and_pictures_of_one_prompt_share_them() -> None:
    rotary = rotary_table(GRID, DIM // HEADS)
    toy = Toy(specials=LONGEST + 40, rotary=rotary)
    drawing = Drawing(toy, rotary)
    texts = {POOL: 11, POOL + 11: 3, POOL + 14: 11}
    drawn = [drawing.add(plan_text(first, length), Request(temperature=0)) for first, length in texts.items()]
    drawing.step()
    again = drawing.add(plan_text(POOL, 11), Request(seed=5))
    drawing.finish()
    for sequence, length in zip(drawn, texts.values(), strict=True):
        drawing.check(sequence, expected(toy, sequence, length), lambda cell: SCALE)
    drawing.check(again, expected(toy, again, 11))
    assert drawing.scheduler.rows_shared == 2 * 10, "of the same prompt alone"
