"""Pictures completed behind a mask, by the model and by means that know nothing, and objects exchanged for others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from engine.inpainting import composite, known_tokens, token_mask
from engine.judging.artist import Artist
from engine.judging.classifier import Judge, Looks, look
from engine.judging.metrics import frechet
from engine.judging.seams import seams
from engine.request import Request

RADIUS = 3  # pixels: the neighbourhood that cv2.inpaint looks at


@dataclass(frozen=True, slots=True)
class Renders:
    """Untouched test renders: pictures uint8 (n, H, W, 3), tokens int32 (n, rows, cols), labels (n,), and what the
    judge makes of them."""

    pictures: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray
    looks: Looks


@dataclass(frozen=True, slots=True)
class Edited:
    """recognised: share seen as what it should show; frechet: to the untouched renders, the same ones, so 0 if nothing
    was touched; seam: mean over the pictures of |gradient across the border - the same in the render|; hardness: the
    same without the bars, so that smooth borders count against hard ones."""

    name: str
    pictures: np.ndarray
    recognised: float
    frechet: float
    seam: float
    hardness: float


def judge_edit(
    name: str, drawn: np.ndarray, masks: np.ndarray, labels: np.ndarray, renders: Renders, judge: Judge
) -> Edited:
    """drawn (n, H, W, 3) behind masks (n, H, W), which leave everything else to the render, to the bit."""
    pictures = np.stack([composite(*each) for each in zip(renders.pictures, drawn, masks, strict=True)])
    looks = see(judge, pictures)
    seam = seams(pictures, renders.pictures, masks)
    return Edited(
        name=name,
        pictures=pictures,
        recognised=looks.share(torch.from_numpy(labels)),
        frechet=frechet(looks.features, renders.looks.features),
        seam=float(np.abs(seam).mean()),
        hardness=float(seam.mean()),
    )


def see(judge: Judge, pictures: np.ndarray) -> Looks:
    return look(judge, torch.from_numpy(pictures).permute(0, 3, 1, 2))


def completed(
    artist: Artist,
    tokens: np.ndarray,
    masks: np.ndarray,
    labels: Sequence[int | None] | np.ndarray,
    settings: Mapping[str, Any],
) -> np.ndarray:
    """Token maps drawn behind the masks, snapped outwards to whole tokens, picture i from seed i."""
    grid = artist.engine.model.grid
    return artist.draw(
        [
            Request(
                class_label=None if label is None else int(label),
                seed=seed,
                known=known_tokens(each, token_mask(mask, grid)),
                task="inpaint",
                **settings,
            )
            for seed, (each, mask, label) in enumerate(zip(tokens, masks, labels, strict=True))
        ]
    )


def mean_colour(pictures: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Pictures of one colour: the mean of what a mask leaves."""
    means = [np.rint(picture[~mask].mean(0)) for picture, mask in zip(pictures, masks, strict=True)]
    return np.broadcast_to(np.array(means, np.uint8)[:, None, None], pictures.shape)


def diffusion(pictures: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """By partial differential equation: isophotes carried on as a Navier–Stokes flow (Bertalmío et al. 2001)."""
    return np.stack(
        [
            cv2.inpaint(picture, mask.astype(np.uint8), RADIUS, cv2.INPAINT_NS)
            for picture, mask in zip(pictures, masks, strict=True)
        ]
    )
