"""Counts fragments in pictures of any width, by one rule.

The rule. The scene classifier reads the picture in cells of 8×8 pixels. A shape is a connected group of two or more
cells in which it sees some thing. A shape, or the part of it that is of one class, is a fragment if

1. it is cut: the mean probability of its cells that the thing is whole is below one half. The border of the picture may
   cut a thing, and another thing may hide a part of it; both count as whole. Or
2. it has no name: the mean probability of its likeliest class is below one half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.evaluation.scenes.seeing import NAMED, Found, see
from engine.training.world.scenes.classifier import SceneClassifier

WHOLE = 0.5


@dataclass(frozen=True, slots=True)
class Fragments:
    """Of each picture: its fragments and the other things in it."""

    fragments: list[tuple[Found, ...]]
    things: list[tuple[Found, ...]]

    @property
    def share(self) -> float:
        """Share of the pictures in which there is a fragment."""
        return float(np.mean([bool(found) for found in self.fragments]))

    @property
    def each(self) -> float:
        """Fragments a picture."""
        return float(np.mean([len(found) for found in self.fragments]))

    @property
    def others(self) -> float:
        """Other things a picture."""
        return float(np.mean([len(found) for found in self.things]))


def is_fragment(found: Found) -> bool:
    return found.whole < WHOLE or found.confidence < NAMED


def count_fragments(classifier: SceneClassifier, pictures: np.ndarray) -> Fragments:
    """Of uint8 pictures (n, H, W, 3), H and W multiples of 32."""
    seen = see(classifier, pictures)
    return Fragments(
        [tuple(one for one in each.things if is_fragment(one)) for each in seen],
        [tuple(one for one in each.things if not is_fragment(one)) for each in seen],
    )
