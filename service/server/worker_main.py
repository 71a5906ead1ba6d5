"""The process that WorkerProcess starts: `python -m service.server.worker_main PIPE SERVING`.

PIPE and SERVING: file descriptors. The process gets its settings and sends its metrics through the first one; into the
second it writes a byte as soon as the API knows its models.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from multiprocessing.connection import Connection

from prometheus_client import CollectorRegistry

from service.metrics import Metrics
from service.server.run import run_worker
from service.settings import Settings, set_up_logging


def main() -> int:
    pipe = Connection(int(sys.argv[1]))
    given: tuple[Settings, str] = pipe.recv()
    settings, redis_url = given
    set_up_logging(settings)
    metrics = Metrics(CollectorRegistry())  # before the thread: a scrape must not find half of the series
    threading.Thread(target=_answer, args=(pipe, metrics.registry), name="pipe", daemon=True).start()
    serving = int(sys.argv[2])
    return run_worker(settings, redis_url, metrics, quiet=True, serving=lambda: _tell(serving))


def _tell(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the API's process has ended
        os.write(descriptor, b"\n")


def _answer(pipe: Connection, registry: CollectorRegistry) -> None:
    """Sends the metrics whenever they are asked for. Ends the process when the API's process has ended."""
    with contextlib.suppress(OSError, EOFError):
        while True:
            pipe.recv()
            pipe.send([*registry.collect()])
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
