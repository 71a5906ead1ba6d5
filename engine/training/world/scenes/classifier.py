"""The scene classifier of `arpg evaluate`: for each cell of 8×8 pixels, which thing is there, in which hue, and whether
the thing is whole; for the picture, which floor and sky.

It trains on crops of training panoramas and on single pictures, as rendered and as the tokenizer reconstructs them,
because models draw what the tokenizer can show. Half of the crops are pasted together from two crops of one panorama.
There the renderer's truth says which things the paste has cut. A thing that another one hides, or that the border of
the picture cuts, counts as whole. The network is convolutional, so that it also reads panoramas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from engine.training.loop import learning_rate, load_checkpoint, save_checkpoint, save_half, step_generator
from engine.training.world.renders import to_signed
from engine.training.world.scenes.captions import HUE_NAMES
from engine.training.world.scenes.pasting import IGNORED, Sample, Singles, draw_sample
from engine.training.world.scenes.shards import Panoramas
from engine.training.world.scenes.truth import NOTHING
from engine.training.world.tracing import FLOORS, HORIZONS

SCENE_CLASSIFIER = "scenes.safetensors"
STRIDE = 32
"""Height and width of its pictures are multiples of this."""
WIDTHS = (24, 48, 80, 112, 112)


@dataclass(frozen=True, slots=True)
class SceneClassifierRecipe:
    panoramas: int = 2048
    reconstructed: int = 1536
    """So many of them are reconstructed, too."""
    singles: int = 1024
    steps: int = 8000
    batch: int = 32
    peak: float = 3e-3
    warm_up: int = 60
    noise: float = 0.05
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SceneLogits:
    """things (B, 17, h, w), the last of which is none; hues (B, 8, h, w); whole (B, h, w); floor (B, 4); sky (B, 3)."""

    things: Tensor
    hues: Tensor
    whole: Tensor
    floor: Tensor
    sky: Tensor


class SceneClassifier(nn.Module):
    """Of pictures (B, 3, H, W) in [-1, 1], H and W multiples of STRIDE; h, w = H / 8, W / 8."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d, e = WIDTHS
        self.fine = nn.Sequential(_block(3, a, 2), _block(a, b, 2), _block(b, c, 2))
        self.middle = _block(c, d, 2)
        self.coarse = nn.Sequential(_block(d, e, 2), _block(e, e, 1))
        self.from_middle = nn.Conv2d(d, c, 1)
        self.from_coarse = nn.Conv2d(e, d, 1)
        self.merge = _block(c, c, 1)
        self.cells = nn.Conv2d(c, NOTHING + 1 + len(HUE_NAMES) + 1, 1)
        self.place = nn.Linear(c, len(FLOORS) + len(HORIZONS))

    def forward(self, images: Tensor) -> SceneLogits:
        fine = self.fine(images)
        middle = self.middle(fine)
        middle = middle + _doubled(self.from_coarse(self.coarse(middle)))
        merged = self.merge(fine + _doubled(self.from_middle(middle)))
        things, hues, whole = self.cells(merged).split((NOTHING + 1, len(HUE_NAMES), 1), dim=1)
        floor, sky = self.place(fine.mean((2, 3))).split((len(FLOORS), len(HORIZONS)), dim=1)
        return SceneLogits(things, hues, whole.squeeze(1), floor, sky)


def _block(inner: int, outer: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outer), nn.ReLU())


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


def load_scene_classifier(path: Path, device: torch.device) -> SceneClassifier:
    if not path.exists():
        raise FileNotFoundError(f"no scene classifier at {path}: run `arpg train scene-classifier`")
    classifier = SceneClassifier()
    classifier.load_state_dict(load_file(path))
    return classifier.to(device).eval()


def train_scene_classifier(
    panoramas: Sequence[Panoramas],
    singles: Sequence[Singles],
    recipe: SceneClassifierRecipe,
    checkpoint: Path,
    path: Path,
    device: torch.device,
    save_every: int = 100,
) -> None:
    """Train to `recipe.steps`, resuming from the checkpoint, and write the weights."""
    torch.manual_seed(recipe.seed)
    classifier = SceneClassifier().to(device)
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=recipe.peak, weight_decay=0.01, fused=True)
    state, start = load_checkpoint(checkpoint, device), 0
    if state is not None:
        classifier.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["done"]
    bar = tqdm(range(start, recipe.steps), initial=start, total=recipe.steps, desc="scene classifier")
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = recipe.peak * learning_rate(step, recipe.steps, recipe.warm_up, 0.02)
        sample = draw_sample(panoramas, singles, recipe.batch, recipe.seed, step)
        images = _varied(to_signed(sample.pictures), recipe, step).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = classifier(images.contiguous(memory_format=torch.channels_last))
        loss = scene_loss(logits, sample)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            state = {"model": classifier.state_dict(), "optimizer": optimizer.state_dict(), "done": step + 1}
            save_checkpoint(checkpoint, state)
    save_half(classifier.state_dict(), path)


def scene_loss(logits: SceneLogits, sample: Sample) -> Tensor:
    """Means over the cells that have a truth, plus those over pictures. Nine cells of ten show no thing, so the class
    of the others has a term of its own."""
    device = logits.things.device
    things, hues, whole = (t.to(device) for t in (sample.things, sample.hues, sample.whole))
    known = whole != IGNORED
    names = things.masked_fill(things == NOTHING, IGNORED)
    loss = F.cross_entropy(logits.things.float(), things)
    loss = loss + F.cross_entropy(logits.things[:, :NOTHING].float(), names, ignore_index=IGNORED, label_smoothing=0.02)
    loss = loss + 0.5 * F.cross_entropy(logits.hues.float(), hues, ignore_index=IGNORED)
    loss = loss + F.binary_cross_entropy_with_logits(logits.whole.float()[known], whole[known].float())
    floor, sky = sample.floors.to(device), sample.skies.to(device)
    return loss + 0.3 * (F.cross_entropy(logits.floor.float(), floor) + F.cross_entropy(logits.sky.float(), sky))


def _varied(images: Tensor, recipe: SceneClassifierRecipe, step: int) -> Tensor:
    """Blur and noise, so that the classifier does not depend on single pixels."""
    generator = step_generator(recipe.seed, step)
    soft = torch.rand(len(images), generator=generator) < 0.5
    images[soft] = F.avg_pool2d(images[soft], 3, stride=1, padding=1, count_include_pad=False)
    return images + recipe.noise * torch.randn(images.shape, generator=generator)


@torch.inference_mode()
def scene_logits(classifier: SceneClassifier, pictures: np.ndarray, batch: int = 32) -> SceneLogits:
    """Of uint8 pictures (n, H, W, 3)."""
    device = next(classifier.parameters()).device
    parts = []
    for start in range(0, len(pictures), batch):
        images = torch.from_numpy(pictures[start : start + batch]).permute(0, 3, 1, 2)
        parts.append(classifier(to_signed(images).to(device)))
    names = ("things", "hues", "whole", "floor", "sky")
    return SceneLogits(*(torch.cat([getattr(part, name) for part in parts]).float().cpu() for name in names))
