"""One decode process, as the API sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

from service.tasks.pictures.errors import ImageError
from service.tasks.pictures.processes import messages
from service.tasks.pictures.reading import Reading, Upload

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[4]
PIECE = 2**20
"""Bytes written at a time, so that the event loop does other work meanwhile."""

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc: freed pictures go back to the system at once.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**18),
    "MALLOC_TRIM_THRESHOLD_": str(2**20),
}


class ProcessLost(Exception):
    """The process has ended without a word about the upload; another one may read it."""


class DecodeProcess:
    """alive: whether it may read another upload, after one that it has read or refused."""

    def __init__(self, process: Process, seconds: float) -> None:
        self._process = process
        self._seconds = seconds

    @classmethod
    async def start(cls, seconds: float, memory: int) -> DecodeProcess:
        """Returns at once; the process is ready a quarter of a second later."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "service.tasks.pictures.processes.child", str(seconds), str(memory),
            stdin=PIPE, stdout=PIPE,
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
            start_new_session=True,  # a Ctrl-C in the terminal reaches only the API
        )  # fmt: skip
        return cls(process, seconds)

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def read(self, upload: Upload) -> Reading:
        """Raises ImageError, or ProcessLost. If it is cancelled, the process must be killed."""
        field = None
        try:
            await self._send(upload)
            while True:
                head, blobs = await self._received()
                if "begun" in head:
                    field = head["begun"]
                elif "error" in head:
                    raise messages.to_error(head)
                elif "bug" in head:
                    raise RuntimeError(f"reading an upload failed: {head['bug']}")
                else:
                    return messages.to_reading(head, blobs)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._why_it_ended(field) from None

    async def kill(self) -> None:
        """At once, whatever it does."""
        assert self._process.stdin is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.stdin.close()
        await self._process.wait()

    async def _send(self, upload: Upload) -> None:
        assert self._process.stdin is not None
        for part in messages.packed(*messages.of_upload(upload)):
            view = memoryview(part)
            for at in range(0, len(part), PIECE):
                self._process.stdin.write(view[at : at + PIECE])
                await self._process.stdin.drain()

    async def _received(self) -> messages.Message:
        source = self._process.stdout
        assert source is not None
        length = int.from_bytes(await source.readexactly(messages.PREFIX), "big")
        head: dict[str, Any] = json.loads(await source.readexactly(length))
        return head, [await source.readexactly(length) for length in head["lengths"]]

    async def _why_it_ended(self, field: str | None) -> Exception:
        status = await self._process.wait()
        log.warning("a decode process ended with status %s at the field %s", status, field)
        if field is None:
            return ProcessLost(f"status {status}")
        again = "save it again as an ordinary PNG or JPEG, or scale it down"
        if status == -signal.SIGPROF:
            return ImageError(field, "too_slow", f"the picture takes more than {self._seconds:g} s to decode; {again}")
        if status == -signal.SIGKILL:
            return ImageError(field, "too_much_memory", f"the picture needs too much memory; {again}", status=413)
        return ImageError(field, "damaged", f"the picture can't be decoded: its decoder ended; {again}")
