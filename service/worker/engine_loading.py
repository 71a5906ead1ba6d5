"""The engines of a worker, loaded one after another."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from service.worker.threads.memory import keep_freed_memory

if TYPE_CHECKING:
    from engine.core.engine import Engine
    from service.settings import Settings


class SameName(Exception):
    """Two models of one worker have the same name, so a request could mean either."""


async def load_engines(settings: Settings) -> AsyncIterator[Engine]:
    """Yields an engine for each model, in their order, as soon as it is loaded. The event loop is not blocked.

    Raises SameName, DeviceError, or CheckpointError with the file and the key that don't fit.
    """
    keep_freed_memory()
    folders: dict[str, str] = {}
    for index, model in enumerate(settings.models):
        engine = await asyncio.to_thread(load_engine, settings, model, before=index, count=len(settings.models))
        name = engine.model.name
        if name in folders:
            raise SameName(f"two models are called {name}: {folders[name]} and {model}")
        folders[name] = model
        yield engine
    _freeze()


async def reload_engine(settings: Settings, place: int) -> Engine:
    """The engine of the model at this place of the settings, once more. The old one is gone already."""
    gc.unfreeze()
    gc.collect()  # the old one may still be there in a cycle
    count = len(settings.models)
    engine = await asyncio.to_thread(load_engine, settings, settings.models[place], before=count - 1, count=count)
    _freeze()
    return engine


def _freeze() -> None:
    """A full collection looks at every object of torch and the models: 0.13 s during which no step runs."""
    gc.collect()
    gc.freeze()


def load_engine(settings: Settings, model: str, *, before: int = 0, count: int = 1) -> Engine:
    """count: how many engines share the device. before: how many of them are loaded already. Raises CheckpointError,
    DeviceError."""
    # Imported here: torch takes seconds to import, and an API replica does without it.
    import torch

    from engine.core.engine import GPU_CACHE_SHARE, Engine, EngineConfig
    from engine.models.checkpoint import CheckpointError
    from service.worker.threads import cores

    share = cache_share(GPU_CACHE_SHARE, before=before, count=count)
    dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
    config = EngineConfig(batch_invariant=settings.batch_invariant, cache_share=share, dtype=dtype)
    with cores.alone():
        engine = Engine.load(model, device=settings.device, config=config)
    if engine.model.conditioning == "text" and engine.text_encoder is None:
        raise CheckpointError(f"{model}: model.json names no text_encoder, which reads the prompts (docs/models.md)")
    return engine


def cache_share(total: float, *, before: int, count: int) -> float:
    """The part of the memory free at this moment that the next cache takes, so that all caches get the same and `total`
    together. Weights are not counted: they leave less to the engines loaded later."""
    return total / (count - total * before)
