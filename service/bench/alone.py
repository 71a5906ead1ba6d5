"""The engine alone, with decoding: a plain process that draws what the service draws, at the same concurrency.

It reads one JSON line for each round from standard input, and answers with one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import deque
from typing import Any

import numpy as np

SETTINGS = ("steps", "guidance_scale", "guidance_schedule", "schedule", "temperature", "top_k", "top_p")


class EngineAlone:
    """The process, for the measurement."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, "-m", "service.bench.alone", model]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.threads: int = self._read()["threads"]

    def seconds(self, bodies: list[dict[str, Any]], concurrency: int) -> float:
        """How long these requests take, `concurrency` at a time."""
        assert self._process.stdin is not None
        print(json.dumps({"bodies": bodies, "concurrency": concurrency}), file=self._process.stdin, flush=True)
        took: float = self._read()["seconds"]
        return took

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def main() -> None:
    import torch

    from engine.core.engine import Engine
    from engine.request import Request

    engine = Engine.load(sys.argv[1])
    defaults = engine.model.defaults_of("generate")
    print(json.dumps({"threads": torch.get_num_threads()}), flush=True)

    def request(body: dict[str, Any]) -> Request:
        """As the API makes it: what the body leaves out, the model card says."""
        settings = {name: body.get(name, getattr(defaults, name, None)) for name in SETTINGS}
        given = {name: value for name, value in settings.items() if value is not None}
        return Request(class_label=body["class"], seed=body["seed"], **given)

    for line in sys.stdin:
        order = json.loads(line)
        waiting = deque(request(body) for body in order["bodies"])
        began = time.perf_counter()
        canvases: dict[int, np.ndarray] = {}
        while waiting or canvases:
            while waiting and len(canvases) < order["concurrency"]:
                canvases[engine.add(waiting.popleft())] = np.zeros(engine.model.grid, dtype=np.int32)
            done = []
            for output in engine.step():
                if output.error is not None:
                    raise output.error
                canvases[output.id].flat[list(output.positions)] = output.tokens
                if output.finished:
                    done.append(canvases.pop(output.id))
            if done:
                engine.codec.decode_many(done)
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
