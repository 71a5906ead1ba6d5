"""What a task is: its fields, what it starts from, how it is planned and how its pictures are composed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from engine.card import ModelCard
from service.jobs.spec import JobSpec, Size
from service.tasks.fields import TaskFields


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """What a plan needs to know of the picture that a task starts from.

    size: height and width in pixels. grid: rows and columns of its tokens; a picture of unknown tokens is fitted to
    the model's grid. fixed_cells: bool (rows, cols), False where a mask touches a token; None: there is no mask.
    tokens: int32 (rows, cols); None: not known, the worker encodes the picture. Those of an upload's recipe may be of
    another grid.
    """

    size: Size
    grid: Size
    fixed_cells: np.ndarray | None = None
    tokens: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """The stored pictures of a job: image uint8 (H, W, 3); mask bool (H, W). profile: of the picture's colours; None:
    they are in sRGB. reused: other pictures start from them too; if none does, compose may write on image."""

    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    profile: bytes | None = None
    reused: bool = True


Plan = Callable[[Any, Any, ModelCard], JobSpec]
"""(fields with a seed, PictureFacts or None, the model's card) → JobSpec. Pure. Raises Problem."""

Compose = Callable[[JobSpec, Inputs, np.ndarray], np.ndarray]
"""(spec, inputs, drawn uint8 (h, w, 3)) → the finished picture uint8 (*spec.size, 3). Returns `drawn` itself where
every pixel is the model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """fields: what a form has beside its files; request: the JSON body; form: the whole form, for OpenAPI; files: the
    pictures that the task starts from; size_field: the field at fault where results are too large; None: they are of
    the model's own size."""

    name: str
    fields: type[TaskFields]
    request: type[TaskFields]
    form: type[BaseModel] | None = None
    files: tuple[str, ...] = ()
    size_field: str | None = None
    plan: Plan
    compose: Compose
