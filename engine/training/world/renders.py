"""Renders stored on disk, 256 pictures in a file (shard), so that an interrupted run resumes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from engine.training.world.shapes import THINGS
from engine.training.world.world import render, scene

SHARD = 256


def shard_path(folder: Path, split: str, shard: int) -> Path:
    return folder / f"{split}-{shard:04d}.npy"


def render_split(folder: Path, split: str, count: int, workers: int) -> None:
    """Render the missing shards of the first `count` scenes of a split (rounded up to whole shards)."""
    missing = [
        (folder, split, shard)
        for shard in range((count + SHARD - 1) // SHARD)
        if not shard_path(folder, split, shard).exists()
    ]
    fill(_render_shard, folder, missing, workers, f"render {split}")


def fill(work: Callable[[Any], None], folder: Path, jobs: Sequence[Any], workers: int, name: str) -> None:
    """Make a folder and call work(job) for each job, in so many processes; work is a function of a module."""
    folder.mkdir(parents=True, exist_ok=True)
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(jobs))) as pool:
        for _ in tqdm(pool.imap_unordered(work, jobs), total=len(jobs), desc=name, unit="shard"):
            pass


def save_array(path: Path, values: np.ndarray) -> None:
    """Save atomically: a process that is killed while saving leaves no half of a file under this name."""
    partial = path.with_suffix(".partial.npy")
    np.save(partial, values)
    os.replace(partial, path)


def _render_shard(job: tuple[Path, str, int]) -> None:
    folder, split, shard = job
    torch.set_num_threads(1)
    pictures = render([scene(split, shard * SHARD + i) for i in range(SHARD)])
    save_array(shard_path(folder, split, shard), pictures)


def load_split(folder: Path, split: str, limit: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 (n, 3, 128, 128) pictures and int64 (n,) labels of the shards on disk, in index order from 0."""
    shards: list[np.ndarray] = []
    while shard_path(folder, split, len(shards)).exists():
        if limit is not None and len(shards) * SHARD >= limit:
            break
        shards.append(np.load(shard_path(folder, split, len(shards))))
    if not shards:
        raise FileNotFoundError(f"no renders of split {split!r} in {folder}: run `arpg train render`")
    pictures = torch.from_numpy(np.concatenate(shards)).permute(0, 3, 1, 2)
    labels = torch.arange(len(pictures)) % len(THINGS)
    return (pictures, labels) if limit is None else (pictures[:limit], labels[:limit])


def to_signed(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 to float in [-1, 1], the tokenizer's input."""
    return pictures.float() / 127.5 - 1.0


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Float in [-1, 1] to uint8, by the published rule 127.5 x + 128."""
    return (images.float() * 127.5 + 128.0).clamp(0, 255).to(torch.uint8)
