"""Token maps of all renders and of their mirror images, stored. The transformers train on these alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from engine.codec.vq import VQModel
from engine.training.parallel import Team
from engine.training.world.renders import to_signed


@torch.inference_mode()
def encode_pictures(
    model: VQModel, pictures: Tensor, device: torch.device, batch: int = 16, *, bar: bool = False
) -> Tensor:
    """int16 codes (n, rows · cols) of uint8 pictures (n, 3, H, W)."""
    model = model.to(device).eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts = []
    for start in tqdm(range(0, len(pictures), batch), desc="encode", disable=not bar):
        images = to_signed(pictures[start : start + batch]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            latent = model.latent(images.contiguous(memory_format=torch.channels_last))
        parts.append(model.quantize.nearest(latent).flatten(1).to(torch.int16).cpu())
    return torch.cat(parts)


def encode_split(team: Team, model: VQModel, pictures: Tensor, path: Path, device: torch.device) -> None:
    """Write codes (2n, rows · cols): the pictures in index order, then their mirror images."""
    mine = pictures[team.rank :: team.size]
    plain = encode_pictures(model, mine, device, bar=team.rank == 0)
    mirrored = encode_pictures(model, mine.flip(-1), device, bar=team.rank == 0)
    codes = torch.zeros(2, len(pictures), plain.shape[1])  # float: gloo sums no int16
    codes[0, team.rank :: team.size] = plain.float()
    codes[1, team.rank :: team.size] = mirrored.float()
    team.sum(codes)
    if team.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, codes.flatten(0, 1).to(torch.int16).numpy())


def load_codes(path: Path) -> Tensor:
    if not path.exists():
        raise FileNotFoundError(f"no codes at {path}: run `arpg train encode`")
    return torch.from_numpy(np.load(path))
