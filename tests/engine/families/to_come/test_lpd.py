"""LPD: position queries are cached for one step, in the slots of the tokens that they decide."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.core.sequence import SequenceState
from engine.noise import permutation
from engine.plans import CONDITION, Condition, Plan, Row, Step, token_at
from engine.request import Request
from tests.engine.families.to_come.toy import CELLS, DIM, NO_ROTATION, VOCAB, Drawing, Toy

QUERY = VOCAB
"""Embedding id of the mask token. Its position says which cell it decides."""
CLASS = QUERY + 1
NULL = CLASS + 4
COUNTS = (1, 2, 3, 4, 6)


class LPD(Toy):
    """Learned positions, and a norm of what enters the first layer."""

    def __init__(self) -> None:
        super().__init__(specials=6, rotary=NO_ROTATION)
        self.positions = self.weight(1 + CELLS, DIM)

    def inputs(self, embedded: Tensor, positions: Tensor) -> Tensor:
        return F.layer_norm(embedded + self.positions[positions], (DIM,))


def order_of(request: Request) -> tuple[int, ...]:
    return request.order or permutation(request.seed, "order", range(CELLS))


def scale(index: int) -> float:
    """Guidance grows from token to token, also within a step."""
    return 1 + 4 * index / CELLS


def plan_lpd(request: Request) -> Plan:
    order, steps, done, fed = order_of(request), [], 0, [(CONDITION, 0)]
    for count in COUNTS:
        new = order[done : done + count]
        end = 1 + done
        content = (Row(source, position, end, True) for source, position in fed)
        queries = (Row(QUERY, cell + 1, end + count, True, cell) for cell in new)
        scales = tuple(scale(index) for index in range(done, done + count))
        overwritten = len(fed) if done else 0
        steps.append(Step((*content, *queries), scales=scales, overwrites=overwritten))
        done, fed = done + count, [(token_at(cell), cell + 1) for cell in new]
    label = request.class_label or 0
    return Plan(tuple(steps), (Condition(CLASS + label), Condition(NULL)), cached_rows=1 + CELLS)


def expected(toy: Toy, sequence: SequenceState) -> dict[int, Tensor]:
    """One pass, as in training: class, tokens in groups, and then the queries of all cells. A row sees the tokens of
    its own and of earlier groups; queries see those of earlier groups and each other within their group."""
    order = order_of(sequence.request)
    group = torch.tensor([0, *(1 + step for step, count in enumerate(COUNTS) for _ in range(count))])
    queries = group[1:]
    visible = torch.zeros(1 + 2 * CELLS, 1 + 2 * CELLS, dtype=torch.bool)
    visible[: 1 + CELLS, : 1 + CELLS] = group[:, None] >= group
    visible[1 + CELLS :, : 1 + CELLS] = queries[:, None] > group
    visible[1 + CELLS :, 1 + CELLS :] = queries[:, None] == queries
    places = [cell + 1 for cell in order]
    tokens = [int(sequence.tokens[cell]) for cell in order]
    branches = [
        toy.plain([condition, *tokens, *[QUERY] * CELLS], [0, *places, *places], visible)[1 + CELLS :]
        for condition in sequence.condition_ids
    ]
    return dict(zip(order, torch.stack(branches, dim=1), strict=True))


def test_tokens_take_the_slots_of_their_queries_and_guidance_differs_within_a_step() -> None:
    toy = LPD()
    drawing = Drawing(toy, NO_ROTATION)
    requests = [Request(class_label=label, seed=label, temperature=0) for label in range(3)]
    drawn = [drawing.add(plan_lpd(request), request) for request in requests]
    drawing.finish()
    for sequence in drawn:
        index = {cell: place for place, cell in enumerate(order_of(sequence.request))}
        drawing.check(sequence, expected(toy, sequence), lambda cell: scale(index[cell]))  # noqa: B023


def test_a_fork_shares_the_rows_that_stay_and_leaves_its_parent_alone() -> None:
    toy = LPD()
    drawing = Drawing(toy, NO_ROTATION)
    request = Request(class_label=1, seed=7)
    parent = drawing.add(plan_lpd(request), request)
    for _ in range(4):
        drawing.step()
    order = order_of(request)
    replayed = {cell: int(parent.tokens[cell]) for cell in order[: sum(COUNTS[:3])]}
    forked = Request(class_label=1, seed=8, order=order, replayed_tokens=replayed)
    fork = drawing.add(plan_lpd(forked), forked)
    drawing.finish()
    late = drawing.add(plan_lpd(forked), forked)
    drawing.finish()
    assert drawing.scheduler.rows_shared == 2 * (1 + sum(COUNTS[:3])), "class and tokens, and no query"
    assert (fork.tokens != parent.tokens).any()
    assert (late.tokens == fork.tokens).all(), "computed again, because the parent is not there any more"
    for sequence in (parent, fork, late):
        drawing.check(sequence, expected(toy, sequence))
