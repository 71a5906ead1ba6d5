"""RandAR: instruction rows are cached before the tokens that they decide; most are computed again a step later."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.core.sequence import SequenceState
from engine.models.layers import rotary_table
from engine.noise import permutation
from engine.ops.functions import rotate
from engine.plans import CONDITION, Condition, Plan, Row, Step, token_at
from engine.request import Request
from tests.engine.families.to_come.toy import CELLS, DIM, GRID, HEADS, VOCAB, Drawing, Toy, causal

QUERY = VOCAB
"""Embedding id of the instruction for cell 0: the learned vector, rotated to the cell; the other cells' follow."""
CLASS = QUERY + CELLS
COUNTS = (1, 2, 2, 3, 4, 4)
ROTARY = rotary_table(GRID, DIM // HEADS)


def network() -> Toy:
    toy = Toy(specials=CELLS + 5, rotary=ROTARY)
    learned = toy.weight(1, DIM).unflatten(-1, (HEADS, -1))
    toy.embeddings[QUERY:CLASS] = rotate(learned.expand(CELLS, -1, -1), ROTARY[1:]).flatten(1)
    return toy


def order_of(request: Request) -> tuple[int, ...]:
    return request.order or permutation(request.seed, "order", range(CELLS))


def scale(done: int) -> float:
    return 1 + 3 * done / CELLS


def plan_randar(request: Request) -> Plan:
    """A step feeds x_a, P_a+1, x_a+1 … P_b, x_b for the tokens a … b of the step before, and then the new instructions.
    P_a stays in the cache; the other instructions of the step before are overwritten."""
    order, steps, done, cached, before = order_of(request), [], 0, 0, 0
    for count in COUNTS:
        sources = [(CONDITION, 0)]
        if before:
            fed = order[done - before : done]
            pairs = [((token_at(cell), cell + 1), (QUERY + cell, cell + 1)) for cell in fed]
            sources = [row for token, query in pairs for row in (query, token)][1:]
        cached -= max(before - 1, 0)
        new = order[done : done + count]
        sources += [(QUERY + cell, cell + 1) for cell in new]
        targets = [-1] * (len(sources) - count) + list(new)
        rows = (
            Row(source, position, cached + index + 1, True, target)
            for index, ((source, position), target) in enumerate(zip(sources, targets, strict=True))
        )
        steps.append(Step(tuple(rows), scale(done), overwrites=max(before - 1, 0)))
        cached, done, before = cached + len(sources), done + count, count
    label = request.class_label or 0
    return Plan(tuple(steps), (Condition(CLASS + label), Condition(CLASS + 4)), cached_rows=cached)


def expected(toy: Toy, sequence: SequenceState) -> dict[int, Tensor]:
    """For each step one causal pass over class, P_0, x_0, P_1, x_1 … and the step's instructions."""
    order, tokens, done = order_of(sequence.request), sequence.tokens.tolist(), 0
    logits: dict[int, Tensor] = {}
    for count in COUNTS:
        sources = [row for cell in order[:done] for row in (QUERY + cell, tokens[cell])]
        positions = [cell + 1 for cell in order[:done] for _ in range(2)]
        new = order[done : done + count]
        sources += [QUERY + cell for cell in new]
        positions = [0, *positions, *(cell + 1 for cell in new)]
        branches = [
            toy.plain([condition, *sources], positions, causal(len(positions)))[-count:]
            for condition in sequence.condition_ids
        ]
        logits |= zip(new, torch.stack(branches, dim=1), strict=True)
        done += count
    return logits


def test_instructions_are_computed_again_in_their_slots() -> None:
    toy = network()
    drawing = Drawing(toy, ROTARY)
    requests = [Request(class_label=label, seed=label, temperature=0) for label in range(3)]
    drawn = [drawing.add(plan_randar(request), request) for request in requests]
    drawing.finish()
    for sequence in drawn:
        index = {cell: place for place, cell in enumerate(order_of(sequence.request))}
        starts = [sum(COUNTS[:step]) for step, count in enumerate(COUNTS) for _ in range(count)]
        drawing.check(sequence, expected(toy, sequence), lambda cell: scale(starts[index[cell]]))  # noqa: B023


def test_a_fork_shares_the_rows_that_stay_and_leaves_its_parent_alone() -> None:
    toy = network()
    drawing = Drawing(toy, ROTARY)
    request = Request(class_label=1, seed=7)
    parent = drawing.add(plan_randar(request), request)
    for _ in range(4):
        drawing.step()
    order = order_of(request)
    replayed = {cell: int(parent.tokens[cell]) for cell in order[: sum(COUNTS[:4])]}
    forked = Request(class_label=1, seed=8, order=order, replayed_tokens=replayed)
    fork = drawing.add(plan_randar(forked), forked)
    drawing.finish()
    late = drawing.add(plan_randar(forked), forked)
    drawing.finish()
    assert drawing.scheduler.rows_shared == 2 * (1 + 2 * sum(COUNTS[:3]) + 1), "up to the first instruction of step 4"
    assert (fork.tokens != parent.tokens).any()
    assert (late.tokens == fork.tokens).all(), "computed again, because the parent is not there any more"
    for sequence in (parent, fork, late):
        drawing.check(sequence, expected(toy, sequence))
