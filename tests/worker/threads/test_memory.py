"""What one step frees, the next one takes without asking the system for it; large pictures keep nothing."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import sys
from resource import RUSAGE_THREAD, getrusage
from threading import Thread
import numpy as np
from service.worker.threads.memory import keep_freed_memory

def run():
    for turn in range(24):
        if turn == 4:
            before = getrusage(RUSAGE_THREAD).ru_minflt
        layers = [np.ones(2**18) for _ in range(5)]  # 2 MiB each
    print(getrusage(RUSAGE_THREAD).ru_minflt - before)

if sys.argv[1] == "keep":
    keep_freed_memory()
thread = Thread(target=run)
thread.start()
thread.join()
"""
GIVEN_BACK = """
import numpy as np
from pathlib import Path
from service.worker.threads.memory import give_back_freed_memory, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

keep_freed_memory()
pictures = [np.ones(2**21, dtype=np.uint8) for _ in range(60)]  # 120 MiB
still_used = np.ones(2**21, dtype=np.uint8)
full = resident()
del pictures
give_back_freed_memory()
print(full - resident())
"""
PAGES = 5 * 512
"""That a turn touches."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "default")
    }
    assert faults["keep"] < PAGES
    assert faults["default"] > 5 * PAGES


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives back what lies below other memory")
def test_what_large_pictures_freed_is_given_back() -> None:
    pages = int(subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True).stdout)
    assert pages > 0.9 * 60 * 512
