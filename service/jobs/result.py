"""JobResult: what the worker stores when a job succeeds. The queue carries it, and never reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from engine.card import ModelCard
from service.jobs.packing import unpack_tokens
from service.jobs.spec import Size


class StoredImage(BaseModel):
    """A finished picture, for the job's result and for later attempts of the job.

    blob: the name of its PNG, by blob_name. packed_tokens: by pack_tokens; most readers of a result need no tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int
    seed: int
    width: int
    height: int
    blob: str
    grid: Size
    packed_tokens: str

    def tokens(self) -> np.ndarray:
        """int32 grid."""
        return unpack_tokens(self.packed_tokens, self.grid)

    def drawn_by(self, tokenizer: str, weights: str) -> bool:
        """Whether the model with these fingerprints drew it. False also if an older worker stored it, which told no
        fingerprints."""
        return self.blob.split("/")[4:] == [_fingerprint(tokenizer, weights)]

    def summary(self) -> dict[str, Any]:
        """The fields that clients are told of."""
        return self.model_dump(include={"index", "seed", "width", "height"})


FINGERPRINTS = ("tokenizer", "weights")
"""Of a model, in its card, in a job's result and in the event `started`."""


def other_model(drawn_with: Mapping[str, Any], card: ModelCard) -> str | None:
    """Which fingerprint of the model that drew something differs from the card's. An unknown one differs from none."""
    for what in FINGERPRINTS:
        if drawn_with.get(what) and drawn_with[what] != getattr(card, what):
            return what
    return None


def blob_name(job: str, attempt: int, index: int, tokenizer: str, weights: str) -> str:
    """The name of a finished picture's PNG. It tells which model drew the picture: workers of other versions, which
    read no other fields, keep the name as it is."""
    return f"{job}/result/{attempt}/{index}/{_fingerprint(tokenizer, weights)}"


def _fingerprint(tokenizer: str, weights: str) -> str:
    return f"{tokenizer}.{weights}"


class JobWarning(BaseModel):
    """What was done otherwise than the request says."""

    model_config = ConfigDict(frozen=True)

    field: str = Field(description="The field of the request")
    code: str = Field(description="Which warning it is, for programs: `truncated`, `dropped_words`, `unknown_words`")
    message: str = Field(description="For users; it names the field in words")


class JobResult(BaseModel):
    """tokenizer, weights: fingerprints of the model that drew the images, as in its card."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: tuple[StoredImage, ...]
    tokenizer: str
    weights: str
    timings: dict[str, float]
    usage: dict[str, int]
    warnings: tuple[JobWarning, ...] = Field((), exclude_if=lambda warnings: not warnings)
    """Not written if there are none: servers that know no warnings refuse what they don't know."""
