"""Batches of captioned pictures: the world's single pictures, and crops of panoramas."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.training.batches import Batch, TransformerRecipe, order_batch
from engine.training.codes import load_codes
from engine.training.loop import shuffled_batch, step_generator
from engine.training.prompts.vocabulary import UNKNOWN_ID, caption_tokenizer, padded
from engine.training.world.scenes.captions import NAME_ALONE, caption
from engine.training.world.scenes.codes import SceneCodes
from engine.training.world.scenes.truth import SeenThing, Truth
from engine.training.world.world import scene

WHOLE, OPENINGS = 32, 96
"""Pictures of a step, and others of which only the first tokens count."""
SINGLES, PAIRS = 0.25, 0.4
"""Shares of the single pictures, and of crops in which several things are named; the others are any crops. Two things
in the colours and places that the caption says are the hardest to learn."""
STRANGE = 0.05
"""Share of the captions with a word that is not in the vocabulary."""
DROPPED = (0.05, 0.6, 0.05)
"""Share of the captions of each kind that are dropped. Most are of any crops: these show what outpainting draws without
a prompt."""
ALL_ROWS = 0.5
"""Share of the dropped captions that have all unconditional rows, as a request without a prompt has; the others have as
many as the caption, as the unconditional branch of a prompt has."""


@dataclass(frozen=True, slots=True)
class Captioned:
    """codes (n, L) and the truth of each. name_alone: the share of class names among the captions, as in `caption`."""

    codes: Tensor
    truths: tuple[Truth, ...]
    name_alone: float

    def with_several(self) -> Captioned:
        """Those in which several things are named."""
        rows = [row for row, truth in enumerate(self.truths) if len(truth.named) > 1]
        return replace(self, codes=self.codes[rows], truths=tuple(self.truths[row] for row in rows))


def load_singles(runs: Path) -> Captioned:
    """A class name alone stands for a single picture, so only these have such captions."""
    codes = load_codes(runs / "codes.npy")
    truths = [single_truth("train", index) for index in range(len(codes) // 2)]
    return Captioned(codes, (*truths, *(truth.mirrored() for truth in truths)), NAME_ALONE)


def load_crops(runs: Path, model: Path) -> Captioned:
    scenes = SceneCodes.load(runs, model, "train")
    return Captioned(scenes.codes, scenes.truths, 0.0)


def single_truth(split: str, index: int, size: int = 128) -> Truth:
    """Of a single picture. Its thing spans about `fill` of the width."""
    one = scene(split, index)
    middle, half = (0.5 + one.shift[0]) * size, one.fill * size / 2
    left, right = round(middle - half), round(middle + half)
    thing = SeenThing(one.label, one.hue, (left, left, right, right), (right - left) ** 2 // 2, 1.0, False, False)
    return Truth((thing,), one.floor, one.sky, "right" if one.sun[0] > 0 else "left", size)


class CaptionBatches:
    """Batch and openings of each step. rows: of a caption, at most."""

    def __init__(self, singles: Captioned, crops: Captioned, recipe: TransformerRecipe, rows: int) -> None:
        self._sources = (singles, crops, crops.with_several())
        self._shares = (SINGLES, 1 - SINGLES - PAIRS, PAIRS)
        self._recipe, self._rows = recipe, rows
        self._tokenizer = caption_tokenizer()

    def __call__(self, step: int) -> tuple[Batch, Batch]:
        recipe = self._recipe
        whole = self._draw(WHOLE, recipe.seed, step, recipe.regions)
        openings = self._draw(OPENINGS, recipe.seed + 1, step, 0.0)
        return whole, replace(openings, orders=openings.orders[:, : recipe.opening])

    def _draw(self, count: int, seed: int, step: int, regions: float) -> Batch:
        ids, captions, rates = [], [], []
        ends = [round(share * count) for share in accumulate(self._shares, initial=0.0)]
        for number, (source, rate, (start, end)) in enumerate(zip(self._sources, DROPPED, pairwise(ends), strict=True)):
            own = seed * len(self._sources) + number
            members = shuffled_batch(end - start, len(source.codes), own, step)
            ids.append(source.codes[members].long())
            captions += [self._caption(source, row, seed, step) for row in members.tolist()]
            rates += [rate] * len(members)
        generator = step_generator(seed, step)
        conditions = padded(captions, self._rows)
        draws = torch.rand(2, len(captions), generator=generator)
        dropped = draws[0] < torch.tensor(rates)
        everywhere = (draws[1] < ALL_ROWS)[:, None] | (conditions != 0)
        conditions = torch.where(dropped[:, None] & everywhere, ~conditions, conditions)
        return order_batch(torch.cat(ids), conditions, self._recipe, generator, regions)

    def _caption(self, source: Captioned, row: int, seed: int, step: int) -> list[int]:
        """Token ids; a caption that has more than there are rows is drawn again."""
        strange = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, step, row])))
        for draw in itertools.count():
            text = caption(source.truths[row], (seed, step, row, draw), source.name_alone)
            ids: list[int] = self._tokenizer.encode(text).ids
            if strange.random() < STRANGE:
                ids.insert(int(strange.integers(len(ids))), UNKNOWN_ID)
            if len(ids) <= self._rows:
                return ids
        raise AssertionError
