"""Samples of a model, stored on disk, so that an evaluation resumes and draws no picture twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from engine.core.engine import Engine
from engine.evaluation.asking import asking_for
from engine.request import Request
from engine.training.world.shapes import THINGS

AT_ONCE = 32
ALONE_ROUNDS = 3
DECODE = 16


@dataclass(frozen=True, slots=True)
class Samples:
    """`each` pictures of every class, class by class: token maps (n, rows, cols), uint8 pictures (n, 3, H, W), labels
    (n,). rows: rows of forward passes for a picture. seconds: for one picture drawn alone. together: seconds for each
    picture when many are drawn at once."""

    tokens: Tensor
    pictures: Tensor
    labels: Tensor
    rows: float
    seconds: float
    together: float


def draw(model: Path, folder: Path, each: int, settings: Mapping[str, Any], device: str | None = None) -> Samples:
    """Draw seeds 0 … each - 1 of every class, with the model's defaults except for `settings`."""
    engine = Engine.load(model, device=device)
    chosen = asdict(engine.model.defaults_of("generate")) | dict(settings)
    path = folder / f"{_key(model, each, chosen)}.npz"
    if not path.exists():
        _draw(engine, path, each, chosen)
    with np.load(path) as kept:
        tokens = kept["tokens"].astype(np.int32)
        rows, seconds, together = (float(kept[name]) for name in ("rows", "seconds", "together"))
    labels = torch.arange(len(THINGS)).repeat_interleave(each)
    return Samples(torch.from_numpy(tokens), decode(engine, tokens), labels, rows, seconds, together)


def decode(engine: Engine, tokens: np.ndarray) -> Tensor:
    """uint8 pictures (n, 3, H, W) of token maps (n, rows, cols)."""
    pictures = [
        p for i in range(0, len(tokens), DECODE) for p in engine.codec.decode_many(list(tokens[i : i + DECODE]))
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def reconstruct(engine: Engine, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Token maps (n, rows, cols) of uint8 pictures (n, 3, H, W), and what they decode to."""
    images = list(pictures.permute(0, 2, 3, 1).contiguous().numpy())
    tokens = np.stack(
        [t for i in range(0, len(images), DECODE) for t in engine.codec.encode_many(images[i : i + DECODE])]
    )
    return torch.from_numpy(tokens), decode(engine, tokens)


def _draw(engine: Engine, path: Path, each: int, chosen: Mapping[str, Any]) -> None:
    requests = [
        Request(**asking_for(engine, label), seed=seed, **chosen)
        for label in range(len(THINGS))
        for seed in range(each)
    ]
    alone = [_seconds(engine, [request])[1] for request in requests[:ALONE_ROUNDS]]
    maps, together, before = [], 0.0, engine.stats().rows_total
    for start in tqdm(range(0, len(requests), AT_ONCE), desc="draw", unit=f"×{AT_ONCE}"):
        part, seconds = _seconds(engine, requests[start : start + AT_ONCE])
        maps += part
        together += seconds
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        tokens=np.stack(maps).astype(np.int16),
        rows=(engine.stats().rows_total - before) / len(requests),
        seconds=sorted(alone)[ALONE_ROUNDS // 2],
        together=together / len(requests),
    )
    partial.replace(path)


def _seconds(engine: Engine, requests: list[Request]) -> tuple[list[np.ndarray], float]:
    start = time.perf_counter()
    return engine.generate(requests), time.perf_counter() - start


def drawing_model(model: Path) -> tuple[str, int | None]:
    """The parts of a model folder on which the drawn tokens depend: the digest of its weights, those of its text
    encoder too, and its first cell."""
    description = json.loads((model / "model.json").read_text())
    files = [description["weights"], *description.get("text_encoder", {}).values()]
    weights = hashlib.sha256(b"".join((model / file).read_bytes() for file in files)).hexdigest()
    return weights, description.get("first_cell")


def _key(model: Path, each: int, chosen: Mapping[str, Any]) -> str:
    what = json.dumps([*drawing_model(model), each, dict(chosen)], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:24]
