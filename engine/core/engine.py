"""The engine: add requests, step, abort."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

import numpy as np
import torch

from engine.attention.kv_cache import KVCache
from engine.card import ModelCard
from engine.checks import check_request, checked_seed, whole
from engine.codec.codec import Codec
from engine.core.config import GPU_CACHE_SHARE, EngineConfig, EngineStats
from engine.core.dispatched import DispatchedStep, output_of
from engine.core.graphs import runner_on
from engine.core.pages import PageAllocator
from engine.core.rotary_tables import RotaryTables
from engine.core.runner import Runner, StepLogits
from engine.core.scheduler import Scheduler
from engine.core.sequence import SequenceState
from engine.core.text_places import TextPlaces
from engine.models import registry
from engine.models.forward import forward_pass
from engine.models.registry import LoadedModel
from engine.ops.choice import DeviceError, choose_device, choose_operations
from engine.request import Request, RequestError, RequestOutput, RopeScaling

__all__ = ["GPU_CACHE_SHARE", "Engine", "EngineConfig", "EngineStats"]

log = logging.getLogger(__name__)

CPU_CACHE_BYTES = 256 * 2**20
OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)


class Engine:
    """Draws many requests at once, with their rows packed into shared steps. Not thread-safe: one thread calls it."""

    def __init__(
        self,
        loaded: LoadedModel,
        config: EngineConfig,
        *,
        device: torch.device,
        watch_logits: Callable[[StepLogits], None] | None = None,
    ) -> None:
        self.model: ModelCard = loaded.card
        self.config = config
        self.codec = Codec(loaded.tokenizer, loaded.card.tokenizer, loaded.palette)
        self.text_encoder = loaded.text_encoder
        self._plan = loaded.plan
        self._text = loaded.text
        dtype = next(loaded.network.parameters()).dtype
        ops = choose_operations(device, dtype, batch_invariant=config.batch_invariant)
        with torch.inference_mode():
            forward = forward_pass(loaded.network, ops, texts=max(2, config.max_running))  # a request has two at most
        pages = _pages(loaded, config, device, dtype)
        self._cache = KVCache(loaded.network.kv_shape, pages, config.page_size, device=device, dtype=dtype)
        texts = forward.texts
        self._scheduler = Scheduler(
            PageAllocator(pages),
            page_size=config.page_size,
            max_rows=config.max_rows,
            max_running=config.max_running,
            texts=None if texts is None else TextPlaces(texts.first_id, texts.sizes.rows, texts.places),
        )
        rotary = RotaryTables(lambda *key: _rotary(loaded, *key).to(device), (loaded.card.grid, "interpolate"))
        self._runner = runner_on(
            device,
            loaded.card,
            Runner(forward, ops, self._cache, rotary, watch_logits=watch_logits),
            max_rows=config.max_rows,
            max_running=config.max_running,
        )
        self._dispatched: deque[DispatchedStep] = deque()
        self._ids = count()
        self._steps_total = 0
        self._rows_total = 0
        self._rows_last_step = 0

    @classmethod
    def load(
        cls,
        model: str | Path = "demo",
        *,
        device: str | None = None,
        config: EngineConfig | None = None,
        watch_logits: Callable[[StepLogits], None] | None = None,
    ) -> Engine:
        """Load a model by its name or its folder. device: None: CUDA if there is one, else the CPU.

        Raises CheckpointError, which names the file and the key that don't fit; DeviceError.
        """
        config = config or EngineConfig()
        place = choose_device(device)
        dtype = config.dtype or (torch.bfloat16 if place.type == "cuda" else torch.float32)
        if config.batch_invariant and place.type != "cpu":
            raise DeviceError("batch_invariant: works on a CPU only; leave it out, or set the device to cpu")
        log.info("loading %s on %s in %s", model, place, dtype)
        loaded = registry.load(model, device=place, dtype=dtype)
        return cls(loaded, config, device=place, watch_logits=watch_logits)

    def add(self, request: Request) -> int:
        """Queue a request; returns its id. Raises RequestError with the field at fault."""
        sequence = self._sequence(request)
        self._scheduler.add(sequence)
        return sequence.id

    def abort(self, request_id: int) -> None:
        """Drop a request; its pages are freed when the next step begins. Unknown and finished ids are ignored."""
        self._scheduler.abort(request_id)
        for step in self._dispatched:
            step.abort(request_id)

    def step(self) -> list[RequestOutput]:
        """Take one forward step. Returns what is drawn, an output for each request that got tokens: on a CPU the tokens
        of this step, on a GPU those of the step before, while it computes this one. Pages and block tables are checked
        when the engine falls idle.

        A step for which the device has no memory is divided; a request that does not fit alone is given up, and its
        output has the error. A request whose logits are not finite is given up too, with a FloatingPointError."""
        sequences = self._scheduler.schedule()
        self._runner.copy_pages(self._scheduler.page_copies)
        self._scheduler.page_copies.clear()
        if self._scheduler.texts is not None:
            self._runner.write_texts(self._scheduler.texts.written)
            self._scheduler.texts.written.clear()
        self._rows_last_step = sum(sequence.rows for sequence in sequences)
        outputs = self._dispatch(sequences) if sequences else []
        while len(self._dispatched) > (self._runner.overlap if sequences else 0):
            outputs += self._dispatched.popleft().commit()
        for output in outputs:
            if output.error is not None:
                log.error("request %d is given up: %s", output.id, output.error)
                self._scheduler.abort(output.id)
        if self.idle or self.config.check_every_step:
            self._scheduler.check_integrity(all_pages=self.config.check_every_step)
        return outputs

    def generate(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Draw these requests to the end, together with all others in the engine; token maps int32 (rows, cols).

        Raises RequestError when one of them is bad, and then draws none. When one of them is given up, raises its error
        and aborts the others. Outputs of other requests are dropped.
        """
        sequences = [self._sequence(request) for request in requests]
        for sequence in sequences:
            self._scheduler.add(sequence)
        unfinished = {sequence.id for sequence in sequences}
        try:
            while unfinished:
                if self.idle:
                    raise RuntimeError(f"the engine is idle before it has drawn the requests {sorted(unfinished)}")
                for output in self.step():
                    if output.error is not None and output.id in unfinished:
                        raise output.error
                    if output.finished:
                        unfinished.discard(output.id)
        finally:
            for request_id in unfinished:
                self.abort(request_id)
        return [sequence.tokens.reshape(sequence.grid) for sequence in sequences]

    def fork(self, parent: Request, tokens: Mapping[int, int], step: int, seed: int) -> Request:
        """A request that shares the parent's first `step` drawing steps and continues with its own seed. tokens: grid
        position → token of the parent, for these steps at least. While the parent is in the engine, the fork shares its
        pages; afterwards its rows are computed again, in the same chunks.

        Raises RequestError when step is not one of the parent's steps before its last, or when tokens are missing.
        """
        parent, seed = self._checked(parent), checked_seed(seed)
        steps = [one.targets for one in self._plan(parent).steps if one.targets]
        step = whole("step", step, 1, len(steps) - 1)
        if not isinstance(tokens, Mapping):
            raise RequestError("tokens", "must map the parent's positions to tokens")
        cells = [cell for targets in steps[:step] for cell in targets]
        if missing := [cell for cell in cells if cell not in tokens]:
            raise RequestError("step", f"the parent has not drawn step {step} yet: position {missing[0]} is missing")
        order = tuple(chain.from_iterable(steps)) if "order" in self.model.settings else None
        return replace(parent, seed=seed, order=order, replayed_tokens={cell: tokens[cell] for cell in cells})

    def cost(self, request: Request) -> int:
        """Rows of KV cache that a request reserves: whole pages, all branches. Raises RequestError, as add does."""
        return self._sequence(request).pages(self.config.page_size) * self.config.page_size

    @property
    def idle(self) -> bool:
        return self._scheduler.idle and not self._dispatched

    @property
    def tokens_total(self) -> int:
        return self._scheduler.pages.total * self.config.page_size

    @property
    def kv_cache_bytes(self) -> int:
        """Memory of keys and values, used or not."""
        return self._cache.keys.nbytes + self._cache.values.nbytes

    @property
    def tokens_free(self) -> int:
        """Rows of KV cache that no running or waiting request needs."""
        return max(0, self.tokens_total - self._scheduler.reserved_pages * self.config.page_size)

    def stats(self) -> EngineStats:
        pages = self._scheduler.pages
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            pages_used=pages.used,
            pages_total=pages.total,
            rows_last_step=self._rows_last_step,
            rows_total=self._rows_total,
            steps_total=self._steps_total,
            rows_shared_total=self._scheduler.rows_shared,
            pages_copied_total=self._scheduler.pages_copied,
            limit=self._scheduler.limit,
        )

    def check_integrity(self) -> None:
        """Raises IntegrityError when pages and block tables disagree."""
        self._scheduler.check_integrity()

    def _dispatch(self, sequences: list[SequenceState]) -> list[RequestOutput]:
        """Returns the outputs of requests that are given up."""
        try:
            drawn = self._runner.run(sequences)
        except OUT_OF_MEMORY as error:
            traceback.clear_frames(error.__traceback__)  # and the tensors in them
            if len(sequences) == 1:
                return [self._give_up(sequences[0], error)]
            half = len(sequences) // 2
            self._scheduler.max_rows = max(1, sum(sequence.rows for sequence in sequences) // 2)
            log.warning("out of memory: from now on a step has at most %d rows", self._scheduler.max_rows)
            return self._dispatch(sequences[:half]) + self._dispatch(sequences[half:])
        self._steps_total += 1
        self._rows_total += sum(sequence.rows for sequence in sequences)
        steps = [sequence.dispatch() for sequence in sequences]
        self._dispatched.append(DispatchedStep(sequences, steps, drawn))
        for sequence in sequences:
            if sequence.finished:  # steps are computed in order, so a later owner of its pages does no harm
                self._scheduler.retire(sequence)
        return []

    def _give_up(self, sequence: SequenceState, error: Exception) -> RequestOutput:
        sequence.aborted = True
        self._scheduler.retire(sequence)
        return replace(output_of(sequence, sequence.next_step, []), error=error)

    def _sequence(self, request: Request) -> SequenceState:
        request = self._checked(request)
        sequence = SequenceState.begin(next(self._ids), request, self._plan(request), request.grid or self.model.grid)
        sequence.check_fits(self._scheduler.pages.total, self.config.page_size)
        return sequence

    def _checked(self, request: Request) -> Request:
        return check_request(
            request,
            grid=self.model.grid,
            codebook_size=self.model.codebook_size,
            num_classes=len(self.model.classes),
            any_order="order" in self.model.settings,
            text=self._text,
        )


def _rotary(loaded: LoadedModel, grid: tuple[int, int], rope_scaling: RopeScaling) -> torch.Tensor:
    return loaded.network.rotary(grid, loaded.card.grid, rope_scaling)


def _pages(loaded: LoadedModel, config: EngineConfig, device: torch.device, dtype: torch.dtype) -> int:
    """Pages of the KV cache. Unless the config says how many, a CPU has room for a guided picture at least."""
    if config.cache_tokens is not None:
        return config.cache_tokens // config.page_size
    bytes_per_row = loaded.network.kv_shape.bytes_per_row(dtype)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, int(free * config.cache_share) // bytes_per_row // config.page_size)
    picture = -(-loaded.card.cached_rows(loaded.card.positions) // config.page_size)
    return max(2 * picture, CPU_CACHE_BYTES // bytes_per_row // config.page_size)
