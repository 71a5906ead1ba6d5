"""A Valkey or Redis that can be killed, and restarts with what it has on disk."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from service.server.embedded import find_binary, is_responding

START_SECONDS = 20.0


def die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)


class Server:
    """Valkey or Redis on a Unix socket, set up as the embedded server: append-only file, fsync every second."""

    def __init__(self, folder: Path, *, appendonly: bool = True) -> None:
        self.socket = folder / "s"
        self.url = f"unix://{self.socket}"
        self.answering = asyncio.Event()
        self._folder = folder
        keeping = ["--appendonly", "yes" if appendonly else "no", "--appendfsync", "everysec", "--save", ""]
        self._command = [
            str(find_binary()), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(folder), *keeping,
            "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._process = self._spawn()
        deadline = time.monotonic() + START_SECONDS
        while not await asyncio.to_thread(is_responding, self.url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: see {self._folder / 'server.log'}")
            await asyncio.sleep(0.02)
        self.answering.set()

    def _spawn(self) -> subprocess.Popen[bytes]:
        # Called in the main thread: the kernel sends the death signal when the thread that forked ends.
        with (self._folder / "server.log").open("ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log, preexec_fn=die_with_parent)

    async def kill(self) -> None:
        assert self._process is not None
        self.answering.clear()
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self.socket.unlink(missing_ok=True)

    async def stall(self, seconds: float) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(self._process.pid, signal.SIGCONT)
