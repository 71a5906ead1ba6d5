"""Draws each request once: token maps are stored on disk under a hash of the request and the model's weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from engine.core.engine import Engine
from engine.editing.windows import WindowedGeneration, generate_windowed, windows_over
from engine.evaluation.samples import AT_ONCE, DECODE, drawing_model
from engine.request import EMPTY, Request, TextFeatures


class CachedGenerator:
    """An engine whose token maps are stored. Pictures are uint8 (n, H, W, 3), token maps int32 (n, rows, cols)."""

    def __init__(self, model: Path, kept: Path, device: str | None = None) -> None:
        self.engine = Engine.load(model, device=device)
        self._model = drawing_model(model)
        self._kept = kept

    def draw(self, requests: Sequence[Request]) -> np.ndarray:
        """Token maps of requests for one grid."""

        def draw() -> np.ndarray:
            starts = tqdm(range(0, len(requests), AT_ONCE), desc="draw", unit=f"×{AT_ONCE}", leave=False)
            return np.stack([tokens for at in starts for tokens in self.engine.generate(requests[at : at + AT_ONCE])])

        return self.once([_plain(request) for request in requests], draw)

    def generate_windowed(self, templates: Sequence[Request], canvases: np.ndarray) -> np.ndarray:
        """Fill canvases (n, rows, cols) window by window where they are EMPTY; all have the same EMPTY cells."""
        shape = self.engine.model.grid
        windows = windows_over(canvases[0] != EMPTY, shape)

        def draw() -> np.ndarray:
            generations = [WindowedGeneration(*each, windows, shape) for each in zip(templates, canvases, strict=True)]
            starts = tqdm(range(0, len(generations), AT_ONCE), desc="windows", unit=f"×{AT_ONCE}", leave=False)
            for at in starts:
                generate_windowed(self.engine, generations[at : at + AT_ONCE])
            return np.stack([generation.tokens for generation in generations])

        places = [_plain(window) for window in windows]
        return self.once([places, canvases.tolist(), [_plain(request) for request in templates]], draw)

    def once(self, what: Any, draw: Callable[[], np.ndarray]) -> np.ndarray:
        """The stored token maps of `what`, which is JSON data; the first call draws them with `draw`."""
        asked = json.dumps([*self._model, what], sort_keys=True)
        path = self._kept / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial.npy")
            np.save(partial, draw().astype(np.int16))
            partial.replace(path)
        return np.load(path).astype(np.int32)

    def encode(self, pictures: np.ndarray) -> np.ndarray:
        parts = (pictures[at : at + DECODE] for at in range(0, len(pictures), DECODE))
        return np.stack([tokens for part in parts for tokens in self.engine.codec.encode_many(list(part))])

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        parts = (tokens[at : at + DECODE] for at in range(0, len(tokens), DECODE))
        return np.stack([picture for part in parts for picture in self.engine.codec.decode_many(list(part))])

    def settings(self, task: str = "generate", /, **chosen: Any) -> dict[str, Any]:
        """Sampling settings: the model's defaults for the task, except for the chosen ones."""
        return asdict(self.engine.model.defaults_of(task)) | chosen


# Request fields whose names have changed since the first token maps were stored: file names are hashes of these keys.
_STORED_NAMES = {
    "fixed_tokens": "known",
    "guide_fixed_tokens": "guide_known",
    "replayed_tokens": "drawn",
    "rope_scaling": "extension",
}


def _plain(value: Any) -> Any:
    """A request with all its fields as JSON data, under the names in the hashes of stored token maps."""
    if isinstance(value, TextFeatures):
        return value.digest
    if is_dataclass(value) and not isinstance(value, type):
        return {_STORED_NAMES.get(f.name, f.name): _plain(getattr(value, f.name)) for f in fields(value)}
    return sorted(value.items()) if isinstance(value, Mapping) else value
