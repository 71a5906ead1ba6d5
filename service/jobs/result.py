"""JobResult: what the worker stores when a job succeeds. The queue carries it, and never reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from service.jobs.packing import unpack_tokens
from service.jobs.spec import Size


class StoredImage(BaseModel):
    """A finished picture, for the job's result and for later attempts of the job.

    blob: the name of its PNG. packed_tokens: by pack_tokens; most readers of a result need no tokens.
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

    def summary(self) -> dict[str, Any]:
        """The fields that clients are told of."""
        return self.model_dump(include={"index", "seed", "width", "height"})


class JobResult(BaseModel):
    """tokenizer, weights: fingerprints of the model that drew the images, as in its card."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: tuple[StoredImage, ...]
    tokenizer: str
    weights: str
    timings: dict[str, float]
    usage: dict[str, int]
