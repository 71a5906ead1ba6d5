"""Held-out pictures with their truth, on which the scene classifier is checked before it judges a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from engine.evaluation.scenes.prompts import CATEGORIES
from engine.evaluation.scenes.scoring import Score, asked_by, score
from engine.evaluation.scenes.seeing import Seen, see
from engine.training.prompts.batches import single_truth
from engine.training.world.scenes.classifier import SceneClassifier
from engine.training.world.scenes.pasting import draw_region, paste
from engine.training.world.scenes.shards import CROPS, Panoramas, as_tensor
from engine.training.world.scenes.truth import Truth

_PASTES = 38


def crops_of(panoramas: Panoramas, count: int) -> Tensor:
    """uint8 (n, 3, H, H): at most `count` crops, first one of each panorama."""
    places = [(place, number) for number in range(CROPS) for place in range(len(panoramas))][:count]
    return as_tensor([panoramas.crop(place, panoramas.left(place, number)) for place, number in places])


def score_crops(classifier: SceneClassifier, panoramas: Panoramas) -> dict[str, Score]:
    """Crops as if each had been drawn for a prompt that fits it, in every category."""
    lefts = [(place, panoramas.left(place, number)) for place in range(len(panoramas)) for number in range(CROPS)]
    seen = see(classifier, np.stack([panoramas.crop(place, left) for place, left in lefts]))
    return _score([panoramas.truth(place, left) for place, left in lefts], seen)


def score_singles(classifier: SceneClassifier, split: str, pictures: np.ndarray) -> dict[str, Score]:
    """The first single pictures of a split, uint8 (n, H, W, 3), in the same way."""
    return _score([single_truth(split, index) for index in range(len(pictures))], see(classifier, pictures))


def _score(truths: Sequence[Truth], seen: Sequence[Seen]) -> dict[str, Score]:
    pairs = [
        (prompt, each)
        for category in CATEGORIES
        for truth, each in zip(truths, seen, strict=True)
        if (prompt := asked_by(truth, category)) is not None
    ]
    return score([prompt for prompt, _ in pairs], [each for _, each in pairs])


def pasted_crops(panoramas: Panoramas) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (n, H, H, 3): two crops of each panorama, pasted; and how many fragments the paste made, (n,). Left out are
    pastes of which this is not clear."""
    pictures, cut = [], []
    for place in range(len(panoramas)):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([panoramas.first + place, _PASTES])))
        lefts = rng.integers(panoramas.pictures.shape[2] - panoramas.size + 1, size=2)
        first, second = ((panoramas.crop(place, int(x)), panoramas.crop_owners(place, int(x))) for x in lefts)
        pasted = paste(first, second, draw_region(panoramas.size, rng))
        if pasted.fragments is not None:
            pictures.append(pasted.picture)
            cut.append(pasted.fragments)
    return np.stack(pictures), np.array(cut)
