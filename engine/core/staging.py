"""A packed step as one buffer, so that one copy brings it to the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from torch import Tensor

from engine.attention.batch import Rows
from engine.attention.metadata import AttentionMeta, tiles_of
from engine.core.packing import PackedRows, PackedStep
from engine.core.program import NO_SLOT, SLOT
from engine.ops.guidance import Guidance
from engine.ops.sampling import SamplingTensors

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepSizes:
    """Room for rows of both kinds, tokens to draw, branches, the width of the block tables, and pages to copy."""

    cached: int
    queries: int
    draws: int
    branches: int
    width: int
    copies: int = 0

    @classmethod
    def of(cls, step: PackedStep, copies: int) -> StepSizes:
        """Those of one step, exactly."""
        branches, width = step.block_tables.shape
        return cls(
            cached=step.cached.columns.shape[1],
            queries=step.queries.columns.shape[1],
            draws=len(step.guidance),
            branches=branches,
            width=width,
            copies=copies,
        )

    def fits(self, other: StepSizes) -> bool:
        """Whether a step of these sizes fits into the other's room."""
        mine, theirs = (
            (sizes.cached, sizes.queries, sizes.draws, sizes.branches, sizes.width, sizes.copies)
            for sizes in (self, other)
        )
        return all(one <= room for one, room in zip(mine, theirs, strict=True))


def tile_room(rows: int, branches: int, rows_a_tile: int) -> int:
    """Tiles that rows of so many branches need at most."""
    return min(rows, branches + rows // rows_a_tile)


@dataclass(frozen=True, slots=True)
class StepLayout:
    """Where each array of a step lies in a buffer of `size` int32."""

    sizes: StepSizes
    shapes: dict[str, tuple[int, Shape]] = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        sizes, offset, shapes = self.sizes, 0, {}
        for name, shape in {
            "uniforms": (sizes.draws, 2),  # float64, so it comes first, where its alignment is right
            "guidance": (sizes.draws,),
            "draws": (3, sizes.draws),
            "settings": (3, sizes.draws),
            "cached": (4, sizes.cached),
            "queries": (4, sizes.queries),
            "cached_starts": (sizes.branches + 1,),
            "query_starts": (sizes.branches + 1,),
            "cached_tiles": (sizes.cached, 3),
            "query_tiles": (sizes.queries, 3),
            "block_tables": (sizes.branches, sizes.width),
            "copies": (2, sizes.copies),
        }.items():
            shapes[name] = (offset, shape)
            offset += prod(shape)
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "size", max(1, offset))

    def tensors(self, buffer: Tensor) -> dict[str, Tensor]:
        return {name: buffer[at : at + prod(shape)].view(shape) for name, (at, shape) in self.shapes.items()}

    def arrays(self, buffer: Tensor) -> dict[str, np.ndarray]:
        return {name: tensor.numpy() for name, tensor in self.tensors(buffer).items()}


class HostStep:
    """A step in pinned memory, on its way to the device."""

    def __init__(self, layout: StepLayout, buffer: Tensor, scratch_slot: int) -> None:
        self.buffer = buffer.zero_()
        self._arrays = layout.arrays(buffer)
        self._scratch_slot = scratch_slot

    def fill(
        self, step: PackedStep, copies: Sequence[tuple[int, int]], *, cached: int, queries: int, draws: int
    ) -> None:
        """cached, queries, draws: how many the device computes, those that are padding included. Padding rows read a
        valid embedding and write to the scratch slot; padding tiles have no rows; padding draws keep no token."""
        arrays = self._arrays
        self._fill_rows("cached", step.cached, cached)
        self._fill_rows("query", step.queries, queries)
        count, (branches, width) = len(step.guidance), step.block_tables.shape
        for name, values, padding in (
            ("draws", step.draws, (0, 0, NO_SLOT)),
            ("settings", step.settings.T, (0, 0, 0)),
        ):
            arrays[name][:, :count] = values
            arrays[name][:, count:draws] = np.array(padding)[:, None]
        arrays["guidance"].view(np.float32)[:count] = step.guidance
        arrays["guidance"][count:draws] = 0
        arrays["uniforms"].view(np.float64)[:count, 0] = step.uniforms
        arrays["uniforms"][count:draws] = 0
        arrays["block_tables"][:branches, :width] = step.block_tables
        if copies:
            arrays["copies"][:, : len(copies)] = np.array(copies).T

    def _fill_rows(self, kind: str, rows: PackedRows, room: int) -> None:
        columns = self._arrays["cached" if kind == "cached" else "queries"]
        count, starts = rows.columns.shape[1], self._arrays[f"{kind}_starts"]
        columns[:, :count] = rows.columns
        columns[:, count:room] = 0
        columns[SLOT, count:room] = self._scratch_slot
        starts[: len(rows.starts)] = rows.starts
        starts[len(rows.starts) :] = rows.starts[-1]
        tiles, made = self._arrays[f"{kind}_tiles"], tiles_of(rows.starts)
        tiles[: len(made)] = made
        tiles[len(made) :] = 0


class DeviceStep:
    """The same step on the device, as the operations read it."""

    def __init__(self, layout: StepLayout, buffer: Tensor, rotary: Tensor, page_size: int) -> None:
        self.buffer = buffer
        self._sizes = layout.sizes
        self._tensors = layout.tensors(buffer)
        self.rotary = rotary
        self._page_size = page_size

    def rows(self, kind: str, count: int, rows_a_tile: int) -> Rows:
        """kind: cached or query. count: rows, padding included."""
        tensors = self._tensors
        columns = tensors["cached" if kind == "cached" else "queries"]
        sources, positions, visible, slots = (column[:count] for column in columns.unbind())
        tiles = tensors[f"{kind}_tiles"][: tile_room(count, self._sizes.branches, rows_a_tile)]
        meta = AttentionMeta(tensors[f"{kind}_starts"], visible, tensors["block_tables"], self._page_size, tiles)
        return Rows(sources, self.rotary, positions, slots, meta)

    def guidance(self, count: int) -> Guidance:
        conditional, unconditional, _ = (part[:count] for part in self._tensors["draws"].unbind())
        return Guidance(conditional, unconditional, self._tensors["guidance"][:count].view(torch.float32))

    def sampling(self, count: int, *, greedy: bool, filtered: bool) -> SamplingTensors:
        temperature, top_p, top_k = (part[:count] for part in self._tensors["settings"].unbind())
        return SamplingTensors(
            temperature=temperature.view(torch.float32),
            top_p=top_p.view(torch.float32),
            top_k=top_k,
            uniform=self._tensors["uniforms"][:count].view(torch.float64).squeeze(-1),
            slots=self._tensors["draws"][2, :count],
            greedy=greedy,
            filtered=filtered,
        )

    def copies(self, count: int) -> tuple[Tensor, Tensor]:
        source, target = self._tensors["copies"][:, :count].unbind()
        return source, target
