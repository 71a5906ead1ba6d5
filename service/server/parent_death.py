"""Runs a server that ends when its parent process ends. A script, started by embedded.py.

`python parent_death.py <kernel|pipe> <parent pid> <lock fd> <binary> <arguments…>`. It is no `preexec_fn`, because
that runs Python between fork and exec, which may deadlock in a process with threads.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType

PR_SET_PDEATHSIG = 1


def by_kernel(parent: int, command: list[str]) -> None:
    """Linux: the kernel sends SIGTERM when the thread that started this process ends. exec keeps the setting."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # the parent ended before prctl
        sys.exit("the parent process has ended")
    os.execv(command[0], command)


def by_pipe(command: list[str], kept_open: tuple[int, ...]) -> int:
    """Elsewhere: this process stays, and stops the server when the parent's end of its standard input closes."""
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=kept_open)

    def stop(_signal: int = 0, _frame: FrameType | None = None) -> None:
        server.terminate()

    def watch() -> None:
        while os.read(0, 1024):
            pass
        stop()

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=watch, daemon=True).start()
    return server.wait()


if __name__ == "__main__":
    how, parent_pid, lock, *server_command = sys.argv[1:]
    if how == "kernel":
        by_kernel(int(parent_pid), server_command)
    sys.exit(by_pipe(server_command, (int(lock),)))
