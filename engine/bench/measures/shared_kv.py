"""The worth of ARPG's shared keys and values: against the same network whose cross layers each keep a set of their own.

The cross layers of the other network project the content rows with copies of ARPG's shared matrices. So both draw the
same tokens, and only the work and the memory differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from engine.attention.batch import Rows
from engine.attention.kv_cache import KVCache, KVShape
from engine.bench.pairs import Comparison, compare
from engine.bench.spread import Spread
from engine.bench.workload import equal
from engine.core.engine import Engine, EngineConfig
from engine.models import registry
from engine.models.arpg import ARPG, ARPGConfig
from engine.models.forward import ARPGForward
from engine.ops.operations import Operations

HEADER = (
    "| requests of {steps} steps | KV bytes an image: shared | per layer | ratio | "
    "ms a step: shared | per layer | ratio (spread) |\n|---|---|---|---|---|---|---|"
)


class PerLayerKV(ARPG):
    """An ARPG whose cache has a set of keys and values for each cross layer."""

    @classmethod
    def like(cls, network: ARPG) -> PerLayerKV:
        """Takes the weights of the network, without a copy."""
        with torch.device("meta"):
            own = cls(network.config).requires_grad_(False)
        own.load_state_dict(network.state_dict(), assign=True)
        return own.eval()

    @property
    def kv_shape(self) -> KVShape:
        config: ARPGConfig = self.config
        return KVShape(config.n_layer, config.n_head, config.head_dim)


class PerLayerOperations:
    """Operations that write the sets of all cross layers, which one product makes, and of which each cross layer reads
    its own. The forward pass calls the cross layers in order."""

    def __init__(self, operations: Operations, cross_layers: int) -> None:
        self._operations = operations
        self._cross_layers = cross_layers
        self._next = cycle(range(cross_layers))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operations, name)

    def write(self, kv: Tensor, rows: Rows, cache: KVCache, layer: int) -> None:
        for index, own in enumerate(kv.chunk(self._cross_layers, dim=1)):
            self._operations.write(own.contiguous(), rows, cache, layer + index)

    def cross_attention(self, q: Tensor, rows: Rows, cache: KVCache, layer: int) -> Tensor:
        return self._operations.cross_attention(q, rows, cache, layer + next(self._next))


def per_layer_forward(network: PerLayerKV, operations: Operations) -> ARPGForward:
    cross_layers = len(network.layers.cross_dec)
    forward = ARPGForward(network, cast(Operations, PerLayerOperations(operations, cross_layers)))
    layers = network.layers
    own = torch.cat([layers.to_k.weight, layers.to_v.weight]).repeat(cross_layers, 1)
    forward._shared = operations.matrix(own)
    return forward


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedKV:
    """shared_bytes, per_layer_bytes: of the KV cache that an image reserves, all branches. pair: the network with sets
    of its own is the baseline. engine_steps: of a round."""

    steps: int
    shared_bytes: int
    per_layer_bytes: int
    engine_steps: float
    pair: Comparison

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.pair.images,
            "steps": self.steps,
            "shared_bytes": self.shared_bytes,
            "per_layer_bytes": self.per_layer_bytes,
            "shared_step_milliseconds": self._step(self.pair.engine).to_json(),
            "per_layer_step_milliseconds": self._step(self.pair.baseline).to_json(),
            "step_ratio": Spread.of(self.pair.ratios).to_json(),
        }

    def __str__(self) -> str:
        return (
            f"| {self.pair.images} | {self.shared_bytes:,} | {self.per_layer_bytes:,} | "
            f"{self.per_layer_bytes / self.shared_bytes:.2f} | {self._step(self.pair.engine).median:.2f} | "
            f"{self._step(self.pair.baseline).median:.2f} | {Spread.of(self.pair.ratios)} |"
        )

    def _step(self, seconds: tuple[float, ...]) -> Spread:
        return Spread.of(1000 * taken / self.engine_steps for taken in seconds)


def engines(model: str | Path, device: str, dtype: torch.dtype, config: EngineConfig) -> tuple[Engine, Engine]:
    """The model as it is, and with keys and values for each cross layer. Raises TypeError when it is no ARPG."""
    loaded = registry.load(model, device=torch.device(device), dtype=dtype)
    if not isinstance(loaded.network, ARPG):
        raise TypeError(f"{model} is no ARPG, so its layers share no keys and values")
    shared = Engine(loaded, config, device=torch.device(device))
    network = PerLayerKV.like(loaded.network)
    per_layer = Engine(replace(loaded, network=network), config, device=torch.device(device))
    with torch.inference_mode():
        runner = per_layer._runner
        runner.forward_pass = per_layer_forward(network, runner.operations)
    return shared, per_layer


def measure(shared: Engine, per_layer: Engine, counts: Sequence[int], steps: int, rounds: int) -> Iterator[SharedKV]:
    """Equal requests, drawn by the two in turn."""
    for count in counts:
        requests = equal(shared.model, count, steps)
        before = shared.stats().steps_total
        pair = compare("", count, partial(per_layer.generate, requests), partial(shared.generate, requests), rounds)
        yield SharedKV(
            steps=steps,
            shared_bytes=_bytes(shared, shared.cost(requests[0])),
            per_layer_bytes=_bytes(per_layer, per_layer.cost(requests[0])),
            engine_steps=(shared.stats().steps_total - before) / (rounds + 1),
            pair=pair,
        )


def _bytes(engine: Engine, rows: int) -> int:
    keys = engine._cache.keys
    layers, _, heads, head_dim = keys.shape
    return KVShape(layers, heads, head_dim).bytes_per_row(keys.dtype) * rows
