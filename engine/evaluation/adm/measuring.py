"""FID, Inception Score, precision and recall, computed as ADM's evaluation suite does, with pytorch-fid's network.

Three differences are left. The network resizes pictures as pytorch-fid does, and ADM's graph as TensorFlow 1 did. The
suite rounds distances to half precision where they fit; here they are float64. sFID is not computed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.evaluation.adm.inception import FEATURES, Inception
from engine.evaluation.adm.npz import PICTURES
from engine.evaluation.metrics import Moments, frechet_of, precision_recall

AT_ONCE = 50
PART = 5000
"""Pictures in a part of the Inception Score."""
NEIGHBOURS = 3
PAPERS_COUNT = 50_000


class ReferenceFileError(Exception):
    """A reference file that can't be used; the message names it and what is wrong."""


@dataclass(frozen=True, slots=True)
class ReferenceFile:
    """A reference batch of ADM's suite: moments of the training set's features, pictures, or both. moments: None: those
    of the pictures."""

    path: Path
    moments: Moments | None
    has_pictures: bool

    @classmethod
    def load(cls, path: Path) -> ReferenceFile:
        """Leaves the pictures in the file. Raises ReferenceFileError."""
        try:
            with np.load(path) as file:
                names = set(file.files)
                moments = _moments(file["mu"], file["sigma"]) if {"mu", "sigma"} <= names else None
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ReferenceFileError(f"--reference: {path}: {error}") from error
        if moments is None and PICTURES not in names:
            raise ReferenceFileError(
                f"--reference: {path}: holds neither mu and sigma nor {PICTURES}, but {', '.join(sorted(names))}; give "
                "a reference batch such as VIRTUAL_imagenet256_labeled.npz"
            )
        return cls(path, moments, PICTURES in names)

    def pictures(self) -> np.ndarray:
        """uint8 (n, H, W, 3). Raises ReferenceFileError."""
        with np.load(self.path) as file:
            pictures: np.ndarray = file[PICTURES]
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
            found = f"{PICTURES} is {pictures.dtype} {pictures.shape}"
            raise ReferenceFileError(f"--reference: {self.path}: {found}; uint8 (n, H, W, 3) is needed")
        return pictures


@dataclass(frozen=True, slots=True)
class Figures:
    """notes: what is not computed, or not comparable, and why."""

    pictures: int
    fid: float
    inception_score: float
    precision: float | None
    recall: float | None
    notes: tuple[str, ...]


def measure(network: Inception, pictures: Iterable[np.ndarray], reference: ReferenceFile) -> Figures:
    """pictures: uint8 (H, W, 3) each, in the order of the .npz file. Raises ReferenceFileError."""
    real = features_of(network, reference.pictures()) if reference.has_pictures else None
    drawn = features_of(network, pictures)
    moments = reference.moments
    if moments is None:
        assert real is not None, "the file has one of both"
        moments = Moments.of(real.cpu())
    notes = []
    if len(drawn) != PAPERS_COUNT:
        notes.append(
            f"FID and IS depend on the number of pictures: {len(drawn):,} here, {PAPERS_COUNT:,} in the papers"
        )
    precision = recall = None
    if real is None:
        notes.append(f"precision and recall are not computed: they need pictures, and the reference has no {PICTURES}")
    elif min(len(real), len(drawn)) <= NEIGHBOURS:
        notes.append(f"precision and recall are not computed: they need more than {NEIGHBOURS} pictures")
    else:
        precision, recall = precision_recall(real, drawn, NEIGHBOURS)
    return Figures(
        pictures=len(drawn),
        fid=frechet_of(Moments.of(drawn.cpu()), moments),
        inception_score=inception_score(network.probabilities(drawn)),
        precision=precision,
        recall=recall,
        notes=tuple(notes),
    )


@torch.inference_mode()
def features_of(network: Inception, pictures: Iterable[np.ndarray]) -> Tensor:
    """float32 (n, 2048) on the network's device, of pictures uint8 (H, W, 3). Without TF32."""
    device = network.fc.weight.device
    found, left = [], iter(pictures)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        while part := list(islice(left, AT_ONCE)):
            pixels = torch.from_numpy(np.stack(part)).to(device)
            found.append(network(pixels.permute(0, 3, 1, 2)))
    return torch.cat(found)


def inception_score(probabilities: Tensor) -> float:
    """Of probabilities (n, classes): the mean over parts of 5,000 (Salimans et al. 2016). exp of the mean divergence of
    a picture's distribution from that of its part."""
    scores = []
    for part in probabilities.double().split(PART):
        entropies = torch.special.entr(part).sum(1)
        scores.append((torch.special.entr(part.mean(0)).sum() - entropies.mean()).exp())
    return float(torch.stack(scores).mean())


def _moments(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    if mean.shape != (FEATURES,) or covariance.shape != (FEATURES, FEATURES):
        raise ValueError(f"mu {mean.shape} and sigma {covariance.shape} are not of {FEATURES} features")
    return Moments(torch.from_numpy(mean).double(), torch.from_numpy(covariance).double())
