"""A decode process: uploads come in on its standard input, one after the other, and readings go out.

`python -m service.tasks.pictures.processes.child <seconds> <bytes>`. seconds: of processor time, for each picture; the
process ends when one takes longer, because a decoder in C can't be interrupted. bytes: of memory, beyond what the
process has at its start. It ends when its input closes: when the API's process ends, however it does.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from typing import IO, Any

from service.tasks.pictures.errors import ImageError
from service.tasks.pictures.processes import messages
from service.tasks.pictures.reading import read_upload

NICENESS = 5
"""Decoding yields to the API's event loop and to an engine on the same machine."""


def main(seconds: float, memory: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group; the API drains first, and then closes the pipe
    os.nice(NICENESS)
    _limit_memory(memory)
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no message
    while (message := _received(source)) is not None:
        answer = _answer(message, seconds, sink)
        del message
        _send(sink, answer)
        del answer


def _answer(message: messages.Message, seconds: float, sink: IO[bytes]) -> messages.Message:
    field = "image"

    def begin(name: str) -> None:
        nonlocal field
        field = name
        signal.setitimer(signal.ITIMER_PROF, seconds)  # at its end the process ends, by SIGPROF
        _send(sink, ({"begun": name}, []))

    begin("image" if message[0]["image"] else "mask")
    try:
        return messages.of_reading(read_upload(messages.to_upload(*message), begin))
    except ImageError as error:
        return messages.of_error(error)
    except MemoryError:
        why = "the picture needs too much memory; save it again as an ordinary PNG or JPEG, or scale it down"
        return messages.of_error(ImageError(field, "too_much_memory", why, status=413))
    except Exception:
        return {"bug": traceback.format_exc()}, []
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory(more: int) -> None:
    """Linux only: elsewhere the system has no such limit, or none that can be told beforehand."""
    if sys.platform != "linux":
        return
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _received(source: IO[bytes]) -> messages.Message | None:
    """None: there will be no more."""
    prefix = source.read(messages.PREFIX)
    if len(prefix) < messages.PREFIX:
        return None
    head: dict[str, Any] = json.loads(source.read(int.from_bytes(prefix, "big")))
    return head, [source.read(length) for length in head["lengths"]]


def _send(sink: IO[bytes], message: messages.Message) -> None:
    try:
        for part in messages.packed(*message):
            sink.write(part)
        sink.flush()
    except BrokenPipeError:
        os._exit(0)  # the API has gone


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
