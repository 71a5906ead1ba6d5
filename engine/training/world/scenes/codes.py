"""Token maps of the panoramas' crops and of their mirror images, with their truth: what the transformer that takes
prompts trains on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from engine.codec.vq import VQConfig
from engine.training.codes import encode_pictures
from engine.training.export import TOKENIZER, load_tokenizer
from engine.training.world.renders import fill, save_array, shard_path, to_bytes
from engine.training.world.scenes.shards import CROPS, Panoramas, as_tensor, shards
from engine.training.world.scenes.truth import Truth

AT_ONCE = 8
"""Pictures that are reconstructed together."""


def codes_folder(runs: Path, model: Path) -> Path:
    """Where the token maps of a model's tokenizer lie: another tokenizer has another folder."""
    digest = hashlib.sha256((model / TOKENIZER).read_bytes()).hexdigest()
    return runs / f"scene-codes-{digest[:8]}"


def encode_panoramas(
    runs: Path, model: Path, config: VQConfig, split: str, device: torch.device, workers: int = 1
) -> None:
    """Encode the crops of all rendered shards that have no codes yet, in so many processes."""
    rendered, folder = runs / "panoramas", codes_folder(runs, model)
    jobs = [
        (rendered, folder, model / TOKENIZER, config, split, shard, device)
        for shard in shards(rendered, split)
        if not shard_path(folder, split, shard).exists()
    ]
    fill(_encode_shard, folder, jobs, workers, f"scene codes {split}")


def reconstructed(
    runs: Path, model: Path, config: VQConfig, pictures: np.ndarray, name: str, device: torch.device
) -> np.ndarray:
    """Pictures uint8 (n, H, W, 3) as the model's tokenizer shows them. They are stored by name, and made once."""
    path = codes_folder(runs, model) / f"reconstructed-{name}-{len(pictures)}.npy"
    if not path.exists():
        tokenizer = load_tokenizer(load_file(model / TOKENIZER), config).to(device)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows, cols = (side // config.stride for side in pictures.shape[1:3])
        parts = []
        for start in tqdm(range(0, len(pictures), AT_ONCE), desc=f"reconstruct {name}", unit=f"×{AT_ONCE}"):
            codes = encode_pictures(tokenizer, as_tensor(list(pictures[start : start + AT_ONCE])), device)
            with torch.inference_mode():
                shown = tokenizer.decode(codes.view(-1, rows, cols).long().to(device))
            parts.append(to_bytes(shown).permute(0, 2, 3, 1).cpu().numpy())
        save_array(path, np.concatenate(parts))
    found: np.ndarray = np.load(path)
    return found


def _encode_shard(job: tuple[Path, Path, Path, VQConfig, str, int, torch.device]) -> None:
    rendered, folder, weights, config, split, shard, device = job
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(load_file(weights), config)
    panoramas = Panoramas.shard(rendered, split, shard)
    pictures = as_tensor([panoramas.crop(place, panoramas.left(place, k)) for place, k in _crops(panoramas)])
    both = torch.cat([encode_pictures(tokenizer, p, device) for p in (pictures, pictures.flip(-1))])
    save_array(shard_path(folder, split, shard), both.numpy())


@dataclass(frozen=True, slots=True)
class SceneCodes:
    """codes int16 (n, rows · cols) and the truth of each. The rows of a shard: its crops in order, then their mirror
    images."""

    split: str
    codes: Tensor
    truths: tuple[Truth, ...]

    @classmethod
    def load(cls, runs: Path, model: Path, split: str, limit: int | None = None) -> SceneCodes:
        """At most `limit` shards."""
        rendered, folder = runs / "panoramas", codes_folder(runs, model)
        there = [s for s in shards(rendered, split) if shard_path(folder, split, s).exists()][:limit]
        if not there:
            raise FileNotFoundError(f"no codes of split {split!r} in {folder}: run `arpg train scene-codes`")
        codes = [torch.from_numpy(np.load(shard_path(folder, split, shard))) for shard in there]
        return cls(split, torch.cat(codes), tuple(t for s in there for t in _shard_truths(rendered, split, s)))


def _shard_truths(rendered: Path, split: str, shard: int) -> Sequence[Truth]:
    panoramas = Panoramas.shard(rendered, split, shard)
    plain = [panoramas.truth(place, panoramas.left(place, k)) for place, k in _crops(panoramas)]
    return [*plain, *(truth.mirrored() for truth in plain)]


def _crops(panoramas: Panoramas) -> list[tuple[int, int]]:
    """Places and crop numbers, in the order of the codes."""
    return [(place, number) for place in range(len(panoramas)) for number in range(CROPS)]
