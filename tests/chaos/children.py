"""Code of the forked processes: the real worker, the real API replica, the proxy.

A forkserver that has already imported their modules forks them, so a new process costs milliseconds. The kernel kills
them when the forkserver dies, and the forkserver dies with the driver.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from service.jobs import QueueConfig
from service.server import run as serving
from service.settings import Settings
from service.worker import engine_loading as engines
from tests.chaos import mutants
from tests.chaos.engine import ChaosEngine
from tests.chaos.proxy import Proxy

PRELOADED = ["tests.chaos.children", "service.server.app", "service.worker.worker"]
FOR_THE_REAL_ENGINE = ["engine.core.engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all processes of a run share. folder: the real engine's model folder; None: ChaosEngine."""

    logs: Path
    namespace: str
    models: tuple[str, ...]
    lease: float
    max_lost: int
    max_queued: int
    grace: float = 3.0
    folder: Path | None = None
    mutant: str | None = None
    webhook_hosts: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.logs / "data"

    def settings(self, redis_url: str, **more: Any) -> Settings:
        return ChaosSettings(
            _env_file=None, redis_url=redis_url, namespace=self.namespace, models=self.models, lease=self.lease,
            max_queued=self.max_queued, grace=self.grace, heartbeat=1.0, stream_life=3.0, retry_after=1, metrics_port=0,
            device="cpu", data_dir=self.data, batch_invariant=True, lost=self.max_lost,
            webhook_hosts=self.webhook_hosts, **more,
        )  # fmt: skip


class ChaosSettings(Settings):
    lost: int = 3

    @property
    def queue_config(self) -> QueueConfig:
        return replace(super().queue_config, max_lost=self.lost, quarantine_seconds=3 * self.lease)


def worker(setup: Setup, name: str, redis_url: str) -> None:
    begin(setup, name)
    if setup.folder is None:
        engines.load_engine = lambda settings, model, **_: ChaosEngine(model)  # type: ignore[assignment]
    else:
        engines.load_engine = real_engine
    sys.exit(serving.worker(setup.settings(redis_url)))


def front_end(setup: Setup, name: str, redis_url: str, port: int) -> None:
    begin(setup, name)
    sys.exit(serving.api(setup.settings(redis_url, host="127.0.0.1", port=port)))


def proxy(setup: Setup, server: str, armed: Any, lost: Any, told: Connection) -> None:
    begin(setup, "proxy")

    async def serve() -> None:
        listening, port = await Proxy(server, armed, lost).listen()
        told.send(port)
        async with listening:
            await listening.serve_forever()

    asyncio.run(serve())


def real_engine(settings: Settings, model: str, **_: Any) -> Any:
    """An engine with room for a few pictures, so that requests share steps and others wait."""
    import torch

    from engine.core.engine import Engine, EngineConfig

    torch.set_num_threads(1)
    config = EngineConfig(cache_tokens=6 * 2 * 64, batch_invariant=True, check_every_step=True)
    return Engine.load(model, device="cpu", config=config)


def begin(setup: Setup, name: str) -> None:
    """Sets up a child: its log, its death with the parent, and the run's mutation."""
    # A process that is stopped while it still starts has lost nothing: it exits as one that has drained.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
    driver = multiprocessing.parent_process()
    if driver is None or not driver.is_alive():
        sys.exit("the driver is gone")
    log = os.open(setup.logs / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.update(setup.environment)
    logging.basicConfig(level="INFO", format="%(asctime)s %(process)d %(levelname)-7s %(name)s: %(message)s")
    mutants.apply(setup.mutant)
