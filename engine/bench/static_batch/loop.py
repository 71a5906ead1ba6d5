"""The static-batch loop that the engine is compared with: it samples as ARPG's authors do.

A batch holds requests of equal settings and runs from its first step to its last. Requests that arrive meanwhile wait.
Order and noise are the engine's, so the tokens are too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from engine.bench.static_batch.network import StaticNetwork
from engine.models import registry
from engine.models.arpg import ARPG_SIZES, ARPGConfig
from engine.models.checkpoint import load_state
from engine.models.hub import weights_file
from engine.models.layers import rotary_table
from engine.models.model_index import description
from engine.noise import uniform
from engine.plans import Plan
from engine.plans.arpg import plan_arpg
from engine.plans.guidance_schedule import conditions
from engine.request import Request

OF_ONE_REQUEST = frozenset({"class_label", "seed", "order"})
"""Fields that may differ within a batch."""
AUTHORS = ("fixed_tokens", "replayed_tokens", "window", "grid", "top_k", "top_p", "content_attention")
"""Fields that must have their default: the loop has no other value."""


class Unsuitable(ValueError):
    """A model or request that the loop can't draw."""


def settings_of(request: Request) -> tuple[Any, ...]:
    """What the requests of a batch have in common. A request without guidance has no second branch, as in the
    engine."""
    names = [field.name for field in fields(Request) if field.name not in (*OF_ONE_REQUEST, *AUTHORS)]
    return (request.class_label is None, *(getattr(request, name) for name in names))


def grouped(requests: Sequence[Request]) -> list[list[int]]:
    """The indices of the requests, those of equal settings together."""
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        groups[settings_of(request)].append(index)
    return list(groups.values())


def arpg_config(data: dict[str, Any]) -> ARPGConfig:
    """The sizes in a model.json. Raises Unsuitable when the model is no ARPG."""
    if data["family"] != "arpg":
        raise Unsuitable(f"{data['name']} is a model of the family {data['family']}; the baseline draws arpg only")
    sizes = data["transformer"]
    return ARPG_SIZES[sizes] if isinstance(sizes, str) else ARPGConfig(**sizes)


@dataclass(frozen=True, slots=True)
class StaticBatchLoop:
    """first_cell: see model.json."""

    network: StaticNetwork
    grid: tuple[int, int]
    first_cell: int | None
    device: torch.device

    @classmethod
    def load(cls, model: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> StaticBatchLoop:
        """Read a model folder. Raises CheckpointError, and Unsuitable when the model is no ARPG."""
        folder = registry.find(model)
        data = description(folder)
        network = StaticNetwork.load(load_state(weights_file(folder, data)), arpg_config(data))
        network.to(device=device, dtype=dtype)
        grid = (data["grid"][0], data["grid"][1])
        return cls(network, grid, data.get("first_cell"), torch.device(device))

    def generate(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Token maps int32 (rows, cols): one batch after another, each of equal settings."""
        maps: dict[int, np.ndarray] = {}
        for indices in grouped(requests):
            maps.update(zip(indices, self.draw_batch([requests[index] for index in indices]), strict=True))
        return [maps[index] for index in range(len(requests))]

    @torch.inference_mode()
    def draw_batch(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Draw requests of equal settings. Raises Unsuitable for settings that differ or that the loop has not."""
        self._check(requests)
        plans = [self._plan(request) for request in requests]
        steps = [[plan.steps[index] for plan in plans] for index in range(len(plans[0].steps))]
        branches = plans[0].branches
        order = self._ints([[cell for step in plan.steps for cell in step.targets] for plan in plans])
        noise = torch.tensor(
            [[uniform(r.seed, r.task, cell) for cell in own] for r, own in zip(requests, order.tolist(), strict=True)],
            dtype=torch.float64,
            device=self.device,
        )
        table = rotary_table(self.grid, self.network.config.head_dim).to(self.device)
        positions = torch.cat([order.new_zeros(len(order), 1), order + 1], dim=1).repeat(branches, 1)
        every = [plan.conditions[branch] for branch in range(branches) for plan in plans]
        tokens = self._ints([[cast(int, one.source)] for one in every])
        temperature = max(requests[0].temperature, 1e-5)

        self.network.clear()
        drawn: list[Tensor] = []
        begin, done = 0, 0
        for step in steps:
            end = done + len(step[0].targets)
            logits = self.network(tokens, table[positions[:, begin : end + 1]])
            if branches == 2:
                conditional, unconditional = logits.chunk(2)
                logits = unconditional + (conditional - unconditional) * step[0].guidance
            probabilities = (logits / temperature).softmax(-1)
            drawn.append(_draw(probabilities.flatten(0, 1), noise[:, done:end].flatten()).view(len(requests), -1))
            tokens = torch.cat([drawn[-1]] * branches)
            begin, done = done + 1, end
        self.network.clear()
        by_cell = torch.cat(drawn, dim=-1).gather(1, order.argsort(dim=1))
        return list(by_cell.to(torch.int32).cpu().numpy().reshape(-1, *self.grid))

    def _plan(self, request: Request) -> Plan:
        config = self.network.config
        return plan_arpg(
            request,
            grid=self.grid,
            mask_id=config.mask_id,
            conditions=conditions(request, config.class_id(request.class_label or 0), config.null_id),
            first_cell=self.first_cell,
        )

    def _check(self, requests: Sequence[Request]) -> None:
        plain = Request()
        for request in requests:
            if settings_of(request) != settings_of(requests[0]):
                raise Unsuitable("the requests of a batch must have equal settings")
            for name in AUTHORS:
                if getattr(request, name) not in (getattr(plain, name), self.grid):
                    raise Unsuitable(f"{name}: the baseline draws with the default only")

    def _ints(self, values: list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)


def _draw(probabilities: Tensor, noise: Tensor) -> Tensor:
    """Tokens (n,), each from a row of probabilities (n, vocab) and a number in (0, 1)."""
    cumulative = probabilities.double().cumsum(-1)
    return torch.searchsorted(cumulative, noise[:, None] * cumulative[:, -1:], right=True).squeeze(-1)
