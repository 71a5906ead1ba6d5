"""The settings with which the papers drew the pictures behind their figures, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.card import ModelCard
from engine.models.model_index import description, known_folders


class PaperError(ValueError):
    """A paper's settings that are not for this model; the message says which are."""


@dataclass(frozen=True, slots=True)
class Paper:
    """model: its name in the model index. settings: sampling fields. side: the pictures are measured at side × side
    pixels. fid, inception_score: the published figures of 50,000 pictures; None: not published with these settings.
    source: of the settings and the figures."""

    model: str
    settings: Mapping[str, Any]
    fid: float
    inception_score: float | None
    source: str
    side: int = 256

    def check(self, card: ModelCard) -> None:
        """Raises PaperError when the model is another one, as far as its name and its card tell."""
        known = known_folders()
        meant = description(known[self.model])
        named = card.name in known and card.name != self.model
        if named or card.family != meant["family"] or list(card.grid) != meant["grid"]:
            found = f"{card.name}, of the family {card.family} with {card.grid[0]}×{card.grid[1]} tokens"
            raise PaperError(f"--paper: these settings are for {self.model}, and the model is {found}; leave it out")


PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
"""All of these papers sample from the whole distribution."""


def _arpg() -> Iterator[tuple[str, Paper]]:
    """arXiv 2503.10568v5: guidance scale and FID with block-wise attention from table 8, the schedules from table 6, IS
    from table 2. The repository's GETTING_STARTED.md has other scales for 64 steps."""
    v5, own = "arXiv 2503.10568v5, tables 2, 6 and 8", "github.com/hp-l33/ARPG, GETTING_STARTED.md"
    for size, steps, scale, fid, score, source in (
        ("l", 32, 5.4, 2.30, 297.7, v5),
        ("xl", 32, 6.6, 1.93, 349.2, v5),
        ("xxl", 32, 6.5, 1.83, 336.1, v5),
        ("l", 64, 5.1, 2.37, 293.7, v5),
        ("xl", 64, 5.3, 1.99, 340.6, v5),
        ("xxl", 64, 6.3, 1.86, 339.7, v5),
        ("l", 64, 5.0, 2.38, None, own),
        ("xl", 64, 6.0, 2.02, None, own),
        ("xxl", 64, 7.5, 1.91, None, own),
    ):
        name = f"arpg-{size}-256" + ("-repository" if source == own else "-32-steps" if steps == 32 else "")
        settings = {"steps": steps, "schedule": "arccos", "guidance_scale": scale, "guidance_schedule": "linear"}
        settings |= {"content_attention": "blockwise", **PLAIN}
        yield name, Paper(f"arpg-{size}", settings, fid, score, source)


def _raster() -> Iterator[tuple[str, Paper]]:
    """LlamaGen (arXiv 2406.06525) and PAR (arXiv 2412.15119): models of 384 pixels are measured at 256. Scales of
    LlamaGen from its paper; FIDs from the README of each repository, and PAR's scales from its sampling commands. IS
    from table 2 of arXiv 2503.10568v5 and, for LlamaGen-XXL, LlamaGen's paper."""
    llamagen = "arXiv 2406.06525; github.com/FoundationVision/LlamaGen, README.md"
    par = "github.com/Epiphqny/PAR, README.md"
    for name, scale, fid, score, source in (
        ("llamagen-b-256", 2.0, 5.46, None, llamagen),
        ("llamagen-b-384", 2.0, 6.09, None, llamagen),
        ("llamagen-l-256", 2.0, 3.80, None, llamagen),
        ("llamagen-l-384", 2.0, 3.07, 256.1, llamagen),
        ("llamagen-xl-384", 1.75, 2.62, 244.1, llamagen),
        ("llamagen-xxl-384", 1.75, 2.34, 253.9, llamagen),
        ("llamagen-3b-384", 1.65, 2.18, None, llamagen),
        ("par-xl-4x", 1.5, 2.61, 259.2, par),
        ("par-xxl-4x", 1.435, 2.35, 263.2, par),
        ("par-3b-4x", 1.345, 2.29, None, par),
        ("par-3b-16x", 1.5, 2.88, None, par),
    ):
        yield name, Paper(name, {"guidance_scale": scale, **PLAIN}, fid, score, source)


PAPERS: Mapping[str, Paper] = dict([*_arpg(), *_raster()])
