"""Runs steps on a GPU: one copy to it, then captured graphs, whose tokens are read while the next step is computed."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.attention.metadata import ROWS_A_TILE
from engine.card import ModelCard
from engine.core.device import CudaDevice, Device, Wait
from engine.core.packing import PackedStep
from engine.core.runner import DrawnTokens, Runner
from engine.core.sequence import SequenceState
from engine.core.staging import DeviceStep, HostStep, StepLayout, StepSizes
from engine.request import TextFeatures

log = logging.getLogger(__name__)

LADDER = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Rows of the captured graphs. A step takes the next larger one; the rows in between are padding."""

COPIES = 64
"""Pages that a step with graphs copies at most."""

IN_FLIGHT = 3
"""Host buffers in turn: the one that is filled, the one that is copied, and one between them."""

_Graph = Callable[[], Tensor]


def runner_on(place: torch.device, card: ModelCard, plain: Runner, *, max_rows: int, max_running: int) -> Runner:
    """The runner for a device: with graphs on a GPU."""
    if place.type == "cpu":
        return plain
    device, branch_rows = CudaDevice(place), card.cached_rows(4 * card.positions)
    runner = GraphRunner(plain, device=device, max_rows=max_rows, max_running=max_running, branch_rows=branch_rows)
    if runner.watch_logits is None:
        defaults = [card.defaults_of(task) for task in card.tasks]
        runner.capture_all(filtered=any(each.top_k > 0 or each.top_p < 1 for each in defaults))
    return runner


class GraphRunner(Runner):
    """A step is one graph of the cached rows, and one of the queries with the draw; families without queries draw in
    the first. A step that is larger than the largest graph, or wider than its block tables, is computed without graphs,
    with the same single copy.

    max_running: sequences of a step. branch_rows: rows of KV cache that a branch may have; those of grids of up to
    four times as many cells as the model's own.
    """

    overlap = 1

    def __init__(self, plain: Runner, *, device: Device, max_rows: int, max_running: int, branch_rows: int) -> None:
        super().__init__(
            plain.forward_pass, plain.operations, plain.cache, plain.rotary, watch_logits=plain.watch_logits
        )
        self._device = device
        self._ladder = [rows for rows in LADDER if rows <= max_rows] or [max_rows]
        most, page_size = self._ladder[-1], self.cache.page_size
        width = -(-branch_rows // page_size) + 1
        self._layout = StepLayout(StepSizes(most, most, most, 2 * max_running, width, COPIES))
        with device.working():
            self._hosts = deque(self._host_step(self._layout) for _ in range(IN_FLIGHT))
            self._static = DeviceStep(self._layout, device.zeros(self._layout.size), self.rotary.table, page_size)
        self._waits: deque[Wait] = deque()
        self._graphs: dict[tuple[str | int | bool, ...], _Graph] = {}
        self._copies: list[tuple[int, int]] = []

    @torch.inference_mode()
    def run(self, sequences: Sequence[SequenceState]) -> DrawnTokens:
        step = self.pack(sequences)
        with self._device.working():
            if self.watch_logits is None and StepSizes.of(step, len(self._copies)).fits(self._layout.sizes):
                return self._replay(step)
            return self._run_whole(sequences, step)

    @torch.inference_mode()
    def capture_all(self, *, filtered: bool) -> None:
        """Captures the graphs of the whole ladder, the largest first, because all use one pool of memory."""
        with self._device.working():
            for rows in reversed(self._ladder):
                if self.forward_pass.draws_from_queries:
                    self._graph("cached", rows)
                    self._graph("queries", rows, self._draws_room(rows, rows // 2), filtered)
                else:
                    self._graph("cached", rows, self._draws_room(rows, rows // 2), filtered)
        log.info("captured %d graphs", len(self._graphs))

    def copy_pages(self, pages: Sequence[tuple[int, int]]) -> None:
        self._copies += pages

    def write_texts(self, texts: Sequence[tuple[int, TextFeatures]]) -> None:
        with self._device.working():  # behind the steps that read the texts before these
            super().write_texts(texts)

    def _replay(self, step: PackedStep) -> DrawnTokens:
        if self.rotary.table is not self._static.rotary:  # more grids at once than there was room for
            self._graphs.clear()
            self._static = DeviceStep(self._layout, self._static.buffer, self.rotary.table, self.cache.page_size)
        count = sum(step.counts)
        cached, queries = (self._room(part.columns.shape[1]) for part in (step.cached, step.queries))
        drawing = queries if self.forward_pass.draws_from_queries else cached
        draws = self._draws_room(drawing, count) if count else 0
        host = self._next_host()
        host.fill(step, self._copies, cached=cached, queries=queries, draws=draws)
        self._waits.append(self._device.upload(host.buffer, self._static.buffer))
        self._copy(self._static)
        tokens = None
        if cached and (count == 0 or self.forward_pass.draws_from_queries):
            self._graph("cached", cached)()
        elif cached:
            tokens = self._graph("cached", cached, draws, step.filtered)()
        if queries:
            tokens = self._graph("queries", queries, draws, step.filtered)()
        if tokens is None:
            return DrawnTokens(step.counts, list)
        return DrawnTokens(step.counts, self._device.download(tokens[:count]))

    def _run_whole(self, sequences: Sequence[SequenceState], step: PackedStep) -> DrawnTokens:
        sizes = StepSizes.of(step, len(self._copies))
        layout = StepLayout(sizes)
        host = self._host_step(layout)
        device = DeviceStep(layout, self._device.zeros(layout.size), self.rotary.table, self.cache.page_size)
        host.fill(step, self._copies, cached=sizes.cached, queries=sizes.queries, draws=sizes.draws)
        wait = self._device.upload(host.buffer, device.buffer)
        self._copy(device)
        hidden = self.forward_pass.embeddings[:0]
        if sizes.cached:
            hidden = self.forward_pass.cached(device.rows("cached", sizes.cached, ROWS_A_TILE), self.cache)
        if sizes.queries:
            hidden = self.forward_pass.queries(device.rows("query", sizes.queries, ROWS_A_TILE), self.cache)
        if not sizes.draws:
            wait()  # the buffer goes back to the allocator, which knows nothing of copies under way
            return DrawnTokens(step.counts, list)
        if self.watch_logits is not None:
            self._show(sequences, step, hidden)
        tokens = self._drawn(hidden, device, sizes.draws, filtered=step.filtered, greedy=step.greedy)
        read = self._device.download(tokens)

        def read_and_release() -> list[int]:
            wait()
            return read()

        return DrawnTokens(step.counts, read_and_release)

    def _graph(self, kind: str, rows: int, draws: int = 0, filtered: bool = False) -> _Graph:
        """Of the cached rows or the queries, and of the draw unless draws is 0."""
        key = (kind, rows, draws, filtered)
        if key not in self._graphs:
            self._graphs[key] = self._device.capture(lambda: self._compute(kind, rows, draws, filtered))
        return self._graphs[key]

    def _compute(self, kind: str, rows: int, draws: int, filtered: bool) -> Tensor:
        if kind == "cached":
            hidden = self.forward_pass.cached(self._static.rows("cached", rows, ROWS_A_TILE), self.cache)
        else:
            hidden = self.forward_pass.queries(self._static.rows("query", rows, ROWS_A_TILE), self.cache)
        return self._drawn(hidden, self._static, draws, filtered=filtered, greedy=False) if draws else hidden

    def _drawn(self, hidden: Tensor, step: DeviceStep, draws: int, *, filtered: bool, greedy: bool) -> Tensor:
        forward, operations = self.forward_pass, self.operations
        logits = operations.logits(hidden, forward.norm, forward.head, step.guidance(draws))
        return operations.sample(logits, step.sampling(draws, greedy=greedy, filtered=filtered), self.cache.tokens)

    def _copy(self, step: DeviceStep) -> None:
        if self._copies:
            self.cache.copy_pages_at(*step.copies(len(self._copies)))
            self._copies.clear()

    def _room(self, rows: int) -> int:
        """The rows of the graph that computes so many; 0: none."""
        return self._ladder[bisect_left(self._ladder, rows)] if rows else 0

    def _draws_room(self, rows: int, count: int) -> int:
        """Of a step with guidance half of the rows draw; of others all may."""
        return rows // 2 if count <= rows // 2 else rows

    def _host_step(self, layout: StepLayout) -> HostStep:
        return HostStep(layout, self._device.pinned(layout.size), self.cache.scratch_slot)

    def _next_host(self) -> HostStep:
        """Its last copy is done: the tokens of that step are read, if it drew any."""
        if len(self._waits) == IN_FLIGHT:
            self._waits.popleft()()
        self._hosts.rotate(-1)
        return self._hosts[0]
