"""The engines of a worker, loaded one after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.core.engine import Engine
    from service.settings import Settings


class SameName(Exception):
    """Two models of one worker have the same name: a request could mean either."""


async def load_engines(settings: Settings) -> AsyncIterator[Engine]:
    """An engine for each of the models, in their order, as soon as it is there; the event loop goes on meanwhile.

    Raises SameName; CheckpointError with the file and the key that don't fit.
    """
    await asyncio.to_thread(share_cores, len(settings.models))
    folders: dict[str, str] = {}
    for index, model in enumerate(settings.models):
        engine = await asyncio.to_thread(load_engine, settings, model, before=index, count=len(settings.models))
        name = engine.model.name
        if name in folders:
            raise SameName(f"two models are called {name}: {folders[name]} and {model}")
        folders[name] = model
        yield engine


def load_engine(settings: Settings, model: str, *, before: int = 0, count: int = 1) -> Engine:
    """The engine of one model, of so many that share the device; `before` of them are there already."""
    # Torch takes seconds to import, and the front end does without.
    from engine.core.engine import GPU_CACHE_SHARE, Engine, EngineConfig

    share = cache_share(GPU_CACHE_SHARE, before=before, count=count)
    config = EngineConfig(batch_invariant=settings.batch_invariant, cache_share=share)
    return Engine.load(model, device=settings.device, config=config)


def share_cores(engines: int) -> None:
    """Engines compute on a thread each, and each of these with a team of its own: on all cores, several teams would
    stand in each other's way."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // engines))


def cache_share(total: float, *, before: int, count: int) -> float:
    """What a cache takes of the memory that is free when its turn comes. All get the same, and `total` together, but
    for the weights, which leave less to those that come later."""
    return total / (count - total * before)
