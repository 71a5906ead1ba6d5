"""Quality of samples: are they recognised, distributed like renders, and not copied from the training?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.core.engine import Engine
from engine.evaluation.metrics import frechet, most_agreeing, nearest, precision_recall
from engine.evaluation.samples import Samples, reconstruct
from engine.training.classifier import Classifier, Predictions, classify
from engine.training.world.renders import load_split

NEAR = 0.01
"""A sample is near a training picture when fewer than this share of unseen renders are as near to one."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Renders that are in no training, and the classifier's output for them. Everything is compared with test.
    validation stands for a perfect model: its distance to test is what chance alone gives for this number of
    pictures."""

    pictures: Tensor
    labels: Tensor
    test: Predictions
    validation: Predictions

    @classmethod
    def load(cls, world: Path, classifier: Classifier, count: int) -> Reference:
        pictures, labels = load_split(world, "test", limit=count)
        validation, _ = load_split(world, "validation", limit=count)
        return cls(pictures, labels, classify(classifier, pictures), classify(classifier, validation))


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one set of pictures against the test renders. accuracy: share recognised as the requested class."""

    pictures: int
    accuracy: float
    by_class: dict[str, float]
    frechet: float
    precision: float
    recall: float


def measure(predictions: Predictions, labels: Tensor, reference: Predictions) -> Quality:
    """The reference is cut to the same number of pictures, on which the Fréchet distance depends."""
    real = reference.features[: len(labels)]
    precision, recall = precision_recall(real, predictions.features)
    return Quality(
        pictures=len(labels),
        accuracy=predictions.share(labels),
        by_class=predictions.share_by_class(labels),
        frechet=frechet(predictions.features, real),
        precision=precision,
        recall=recall,
    )


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Figures of the tokenizer alone, on the test renders. psnr: dB, the mean over pictures. used: share of the
    codes."""

    quality: Quality
    psnr: float
    used: float


def measure_tokenizer(engine: Engine, classifier: Classifier, reference: Reference) -> Tokenizer:
    tokens, decoded = reconstruct(engine, reference.pictures)
    error = (decoded.float() - reference.pictures.float()).square().mean((1, 2, 3))
    return Tokenizer(
        quality=measure(classify(classifier, decoded), reference.labels, reference.test),
        psnr=(10 * torch.log10(255**2 / error)).mean().item(),
        used=len(tokens.unique()) / engine.model.codebook_size,
    )


@dataclass(frozen=True, slots=True)
class Copying:
    """How close pictures are to the nearest training render or its mirror image: distances in the classifier's features
    (n,), and the share of the token map that agrees (n,)."""

    distances: Tensor
    agreement: Tensor

    def share_nearer(self, than: Copying) -> float:
        """Share of these that are nearer than all but NEAR of those, in features."""
        return (self.distances < than.distances.quantile(NEAR)).double().mean().item()

    def share_agreeing(self, more_than: Copying) -> float:
        """Share of these whose tokens agree more than all but NEAR of those."""
        return (self.agreement > more_than.agreement.quantile(1 - NEAR)).double().mean().item()


@dataclass(frozen=True, slots=True)
class CopyCheck:
    """Samples, compared with unseen renders, which can't be copies, and reconstructed training renders, which are."""

    samples: Copying
    unseen: Copying
    copies: Copying


def check_copying(engine: Engine, classifier: Classifier, world: Path, codes: Tensor, samples: Samples) -> CopyCheck:
    """codes (2n, positions): the token maps of the training renders in index order, then of their mirror images."""
    count = len(samples.labels)
    train, _ = load_split(world, "train", limit=len(codes) // 2)
    seen = torch.cat([classify(classifier, train).features, classify(classifier, train.flip(-1)).features])

    def compare(tokens: Tensor, pictures: Tensor) -> Copying:
        distances, _ = nearest(classify(classifier, pictures).features, seen)
        return Copying(distances, most_agreeing(tokens.flatten(1).short(), codes))

    unseen, _ = load_split(world, "test", limit=count)
    return CopyCheck(
        samples=compare(samples.tokens, samples.pictures),
        unseen=compare(reconstruct(engine, unseen)[0], unseen),
        copies=compare(*reconstruct(engine, train[:count])),
    )
