"""ARPG's serving engine: a library without HTTP or Redis.

Its face, read aloud:

    engine = Engine.load("demo")
    [tokens] = engine.generate([Request(class_label=3, seed=1)])
    picture = engine.codec.decode(tokens)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.request import Request, RequestError, RequestOutput

if TYPE_CHECKING:
    from engine.core.engine import Engine, EngineConfig

__all__ = ["Engine", "EngineConfig", "Request", "RequestError", "RequestOutput"]


def __getattr__(name: str) -> Any:
    """Torch is imported with the engine itself, not with the plain-Python modules beside it."""
    if name in ("Engine", "EngineConfig"):
        from engine.core import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
