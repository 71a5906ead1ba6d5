"""The features of the prompts that were encoded last."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from engine.request import TextFeatures


class FeatureCache:
    """Features by token ids. Over `max_bytes`, those that were used least recently are dropped. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[int, ...], TextFeatures] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    @property
    def bytes(self) -> int:
        return self._bytes

    def get(self, ids: tuple[int, ...]) -> TextFeatures | None:
        with self._lock:
            found = self._kept.get(ids)
            if found is not None:
                self._kept.move_to_end(ids)
            return found

    def put(self, ids: tuple[int, ...], features: TextFeatures) -> None:
        with self._lock:
            if ids in self._kept:  # another thread has encoded the same prompt
                return
            self._kept[ids] = features
            self._bytes += features.rows.nbytes
            while self._bytes > self._max_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.rows.nbytes
