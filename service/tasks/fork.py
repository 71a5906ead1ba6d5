"""fork: go on from a step of a picture with noise of its own. All else is as in the parent's job."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from service.auth.keys import Priority
from service.errors import Problem
from service.jobs.spec import ForkOrigin, JobSpec
from service.tasks.fields import MAX_IMAGES, PRIORITY, SEED, Seed
from service.tasks.pictures.inputs import whole_picture
from service.tasks.pictures.recipe import MAX_FORKS, forked
from service.tasks.planning import image_seeds, random_seed


class ForkRequest(BaseModel):
    """Continue from a step of a picture, with other seeds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    step: int = Field(ge=1, le=2**16, description="How many first steps the new pictures share with the old one")
    n: int = Field(1, ge=1, le=MAX_IMAGES, description="How many new pictures to draw")
    image_index: int = Field(0, ge=0, lt=MAX_IMAGES, description="Which of the job's pictures, from 0")
    seed: Seed = Field(None, description=SEED)
    priority: Priority = Field("normal", description=PRIORITY)


@dataclass(frozen=True, slots=True)
class ForkProgress:
    """How far the parent's picture is: the steps that it has taken, of all, and the tokens that it has, int32 (rows,
    cols), EMPTY elsewhere."""

    step: int
    steps: int
    tokens: np.ndarray


def check_parent(fields: ForkRequest, parent: JobSpec) -> None:
    """What can be said before the picture is looked at. Raises Problem."""
    if parent.windowed:
        raise Problem.field("step", "what is drawn in several windows can't be forked", "windowed")
    if fields.image_index >= parent.n:
        raise Problem.field("image_index", f"the job has {parent.n} pictures, counted from 0", "no_such_image")
    if len(_seeds(fields, parent)) > MAX_FORKS:
        raise Problem.field("step", f"a picture may be the fork of a fork {MAX_FORKS} times, no more", "too_deep")


def checked_origin(fields: ForkRequest, parent_id: str, parent: JobSpec, progress: ForkProgress) -> ForkOrigin:
    """Where the new pictures start. parent: one that `check_parent` accepted. Raises Problem where the picture has no
    such step (yet)."""
    if progress.steps == 1:
        raise Problem.field("step", "a picture of one step can't be forked: nothing is left to draw after it", "step")
    if not fields.step < progress.steps:
        raise Problem.field("step", f"must be between 1 and {progress.steps - 1}: there are {progress.steps}", "step")
    if fields.step > progress.step:
        raise not_reached_yet(f"the picture is at step {progress.step}")
    return ForkOrigin(
        job=parent_id,
        image=fields.image_index,
        step=fields.step,
        seeds=_seeds(fields, parent),
        replayed=progress.tokens,
    )


def with_seed(fields: ForkRequest) -> ForkRequest:
    return fields if fields.seed is not None else fields.model_copy(update={"seed": random_seed()})


def plan(fields: ForkRequest, parent: JobSpec, origin: ForkOrigin, picture_tokens: np.ndarray | None) -> JobSpec:
    """fields: with a seed. picture_tokens: those of the parent's finished picture, from which the new job starts in
    place of the parent's upload; None: it starts as its parent did."""
    assert fields.seed is not None
    update = {"seeds": image_seeds(fields.seed, fields.n), "fork": origin, "blobs": {}, "digest": ""}
    if picture_tokens is not None:
        update |= {"picture_box": whole_picture(parent.grid), "picture_tokens": picture_tokens}
    return parent.model_copy(update=update)


def not_reached_yet(message: str) -> Problem:
    problem = Problem.field("step", message, "not_reached_yet", status=409)
    problem.headers["Retry-After"] = "1"
    return problem


def _seeds(fields: ForkRequest, parent: JobSpec) -> tuple[tuple[int, int], ...]:
    earlier = () if parent.fork is None else parent.fork.seeds
    return forked(earlier, parent.seeds[fields.image_index], fields.step)
