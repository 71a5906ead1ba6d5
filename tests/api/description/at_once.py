"""A worker that finishes every job as soon as it is there, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading

from service.jobs import BlobStore, Queue, connect
from service.settings import Settings
from tests.support.api import CARD, result_of, spec_of, succeed


class AtOnce:
    """Draws nothing: its pictures are noise. It serves CARD, which a test shows."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    async def _work(self) -> None:
        redis = connect(self._settings.redis_address or "")
        queue = Queue(redis, self._settings.queue_config)
        blobs = BlobStore(redis, self._settings.queue_config)
        try:
            while not self._leaving.is_set():
                for claim in await queue.claim(CARD.name, "at-once", budget=10**6, limit=8, alone=True):
                    await succeed(claim, 1, result_of(claim, spec_of(claim).seeds), queue, blobs)
                await queue.wait([CARD.name], 0.2)
        finally:
            await redis.aclose()
