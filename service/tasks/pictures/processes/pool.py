"""Reads uploads in a few processes, each client in turn."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.tasks.pictures.errors import ImageError
from service.tasks.pictures.processes.fair_line import FairLine
from service.tasks.pictures.processes.process import DecodeProcess, ProcessLost
from service.tasks.pictures.reading import Reading, Upload

IDLE_SECONDS = 10.0
"""A process without work ends then: it has 40 MB."""

PATIENCE = 15
"""A process may take so many times its limit of processor time by the clock, where others use the processors."""

BYTES_A_PIXEL = 24
"""Of memory, at most: a WebP is held four times while it is decoded."""

COPIES = 5
"""Of the upload's bytes, at most: as base64, as files, without their metadata."""

WAITING = 8
"""Uploads of the largest size that may wait or be read."""

CLIENTS_SHARE = 2
"""One client's uploads may be half of the bytes that wait."""


class TooBusy(Exception):
    """Uploads can't be read now; the message says why."""


class DecodePool:
    """For one event loop. processes: how many at most; they start when they are needed. seconds: of processor time, for
    each picture. max_pixels: of one; max_bytes: of an upload."""

    def __init__(self, processes: int, seconds: float, max_pixels: int, max_bytes: int) -> None:
        self._line = FairLine(processes)
        self._seconds = seconds
        self._memory = BYTES_A_PIXEL * max_pixels + COPIES * max_bytes
        self._waiting_bytes = WAITING * max_bytes
        self._waiting: Counter[str] = Counter()
        self._idle: dict[DecodeProcess, asyncio.Task[None]] = {}
        self._busy: set[DecodeProcess] = set()

    async def read(self, upload: Upload, client: str) -> Reading:
        """As read_upload, in a process that holds one place for picture and mask together. If it is cancelled, the
        place is free again at once. Raises ImageError, TooBusy."""
        with self._counted(upload, client):
            async with self._line.place(client):
                try:
                    return await self._read(upload)
                except ProcessLost:  # it ended while it was idle
                    return await self._read(upload)

    async def close(self) -> None:
        """Ends all processes."""
        idle, self._idle = self._idle, {}
        for ending in idle.values():
            ending.cancel()
        await asyncio.gather(*(process.kill() for process in (*idle, *self._busy)))

    async def _read(self, upload: Upload) -> Reading:
        process = await self._taken()
        self._busy.add(process)
        kept = False
        try:
            async with asyncio.timeout(PATIENCE * self._seconds):
                reading = await process.read(upload)
            kept = True
            return reading
        except ImageError:
            kept = process.alive
            raise
        except TimeoutError:
            raise TooBusy("reading the upload took too long on a busy server; send it again later") from None
        finally:
            self._busy.discard(process)
            if kept:
                self._idle[process] = asyncio.create_task(self._end_when_idle(process))
            else:
                await process.kill()

    async def _end_when_idle(self, process: DecodeProcess) -> None:
        await asyncio.sleep(IDLE_SECONDS)
        del self._idle[process]
        await process.kill()

    async def _taken(self) -> DecodeProcess:
        while self._idle:
            process, ending = self._idle.popitem()
            ending.cancel()
            if process.alive:
                return process
            await process.kill()
        return await DecodeProcess.start(self._seconds, self._memory)

    @contextmanager
    def _counted(self, upload: Upload, client: str) -> Iterator[None]:
        size = sum(len(sent) for sent in (upload.image, upload.mask) if sent is not None)
        share = self._waiting_bytes // CLIENTS_SHARE
        if self._waiting[client] and self._waiting[client] + size > share:
            raise TooBusy(f"{share:,} bytes of this client's uploads wait to be read already; send it again later")
        if self._waiting.total() + size > self._waiting_bytes:
            raise TooBusy(f"{self._waiting_bytes:,} bytes of uploads wait to be read already; send it again later")
        self._waiting[client] += size
        try:
            yield
        finally:
            self._waiting[client] -= size
            if not self._waiting[client]:
                del self._waiting[client]
