"""The classifier of `arpg evaluate`: small, trained on training renders only, it says what a picture shows.

It sees no reconstruction or sample in training, so its accuracy on them measures their quality. Its weights ship and
are never retrained, so that all models are measured with the same classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from engine.training.loop import learning_rate, save_half, shuffled_batch, step_generator
from engine.training.world.renders import to_signed
from engine.training.world.shapes import THINGS


@dataclass(frozen=True, slots=True)
class ClassifierRecipe:
    renders: int = 6144
    steps: int = 600
    batch: int = 32
    peak: float = 3e-3
    warm_up: int = 40
    noise: float = 0.05
    seed: int = 0


class Classifier(nn.Module):
    """Logits (B, 16) of pictures (B, 3, 128, 128) in [-1, 1]; `features` (B, 128) come before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128, 128)
        self.layers = nn.Sequential()
        for inner, outer in pairwise(widths):
            self.layers.append(nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False))
            self.layers.append(nn.BatchNorm2d(outer))
            self.layers.append(nn.ReLU())
        self.head = nn.Linear(widths[-1], len(THINGS))

    def features(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


@dataclass(frozen=True, slots=True)
class Predictions:
    """The classifier's output for n pictures: features (n, 128) and predicted classes (n,)."""

    features: Tensor
    classes: Tensor

    def share(self, labels: Tensor) -> float:
        """Share of the pictures whose predicted class is their label."""
        return (self.classes == labels).double().mean().item()

    def share_by_class(self, labels: Tensor) -> dict[str, float]:
        right = (self.classes == labels).double()
        return {
            thing.name: right[labels == label].mean().item()
            for label, thing in enumerate(THINGS)
            if bool((labels == label).any())
        }


@torch.inference_mode()
def classify(classifier: Classifier, pictures: Tensor, batch: int = 64) -> Predictions:
    """Run the classifier on uint8 pictures (n, 3, 128, 128)."""
    device = next(classifier.parameters()).device
    features = torch.cat([classifier.features(to_signed(part).to(device)).cpu() for part in pictures.split(batch)])
    return Predictions(features, classifier.head(features.to(device)).argmax(1).cpu())


def load_classifier(path: Path, device: torch.device) -> Classifier:
    classifier = Classifier()
    classifier.load_state_dict(load_file(path))
    return classifier.to(device).eval()


def train_classifier(
    pictures: Tensor, labels: Tensor, recipe: ClassifierRecipe, path: Path, device: torch.device
) -> None:
    """Train on uint8 pictures (n, 3, H, W) of the training split and write the weights."""
    torch.manual_seed(recipe.seed)
    classifier = Classifier().to(device)
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=recipe.peak, weight_decay=0.01, fused=True)
    for step in tqdm(range(recipe.steps), desc="classifier"):
        for group in optimizer.param_groups:
            group["lr"] = recipe.peak * learning_rate(step, recipe.steps, recipe.warm_up, 0.02)
        chosen = shuffled_batch(recipe.batch, len(pictures), recipe.seed, step)
        images = _varied(to_signed(pictures[chosen]), recipe, step).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = classifier(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels[chosen].to(device), label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    save_half(classifier.state_dict(), path)


def _varied(images: Tensor, recipe: ClassifierRecipe, step: int) -> Tensor:
    """Random mirroring, blur and noise, so that the classifier does not depend on single pixels."""
    generator = step_generator(recipe.seed, step)
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images[mirrored] = images[mirrored].flip(-1)
    soft = torch.rand(len(images), generator=generator) < 0.5
    images[soft] = F.avg_pool2d(images[soft], 3, stride=1, padding=1, count_include_pad=False)
    return images + recipe.noise * torch.randn(images.shape, generator=generator)
