"""Going on from a step of a picture, as something else: /v1/jobs/{id}/fork."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Depends
from fastapi.responses import Response

from engine.card import ModelCard
from engine.request import EMPTY, MAX_SEED
from service.api.create_job import Draft, Submission, SubmissionDep, check_results_fit
from service.api.dependencies import choose_model
from service.api.job_access import check_room, find_job, find_picture, must_have_succeeded
from service.api.problems import described
from service.api.routes.jobs import JobId
from service.api.routes.tasks import ANSWERS, digest_of, draining, json_only
from service.errors import Problem
from service.jobs import Job
from service.services import Services
from service.tasks.fields import ForkRequest
from service.tasks.recipe import MAX_FORKS, forked
from service.tasks.sampling import cost, image_seeds
from service.tasks.uploads import needed_to_fork, uploads_of

router = APIRouter(prefix="/v1/jobs/{id}", tags=["jobs"], dependencies=[Depends(draining), Depends(json_only)])

_EXAMPLES: Any = {
    "three that share the first 8 steps": {"value": {"step": 8, "n": 3}},
    "of the job's second picture, reproducibly": {"value": {"step": 20, "image_index": 1, "seed": 7}},
}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a picture is: the steps that it has taken, of all, and the tokens that it has, int32 (rows, cols)."""

    step: int
    steps: int
    tokens: np.ndarray


@router.post("/fork", response_model=None, status_code=202, responses=ANSWERS | described(404, 409, 410))
async def fork(
    id: JobId, submission: SubmissionDep, fields: Annotated[ForkRequest, Body(openapi_examples=_EXAMPLES)]
) -> Response:
    """Draw n new pictures that share the first steps of one of this job's, which may be finished or still on its way.

    Everything else is as in that job. What was drawn in several windows has no such steps.
    """
    digest = digest_of(fields, id)
    known = await submission.known("fork", digest)
    if known is not None:  # its parent may be gone by now
        return await submission.answer(known)
    parent = await find_job(submission.services, submission.client, id)

    async def draft() -> Draft:
        return await _draft(submission, parent, fields)

    return await submission.accept("fork", fields, parent.payload["format"], digest, draft)


async def _draft(submission: Submission, parent: Job, fields: ForkRequest) -> Draft:
    services = submission.services
    served = await choose_model(services, parent.model, "fork")
    _check(parent, fields)
    _check_same_model(parent, served.card)
    await check_room(services, submission.client, served.card.name)
    height, width = parent.payload["size"]
    check_results_fit(services, fields.n, (height, width), "n")
    progress = await _progress(services, parent, fields.image_index, served.card)
    _check_step(fields.step, progress)
    inherited, uploads = await _inheritance(submission, parent, fields.image_index)
    seed = secrets.randbelow(MAX_SEED + 1) if fields.seed is None else fields.seed
    payload = (
        parent.payload
        | inherited
        | {
            "n": fields.n,
            "seed": seed,
            "seeds": image_seeds(seed, fields.n),
            "fork": {"job": parent.id, "image": fields.image_index, "step": fields.step},
            "forks": _forks(parent, fields),
            "drawn": progress.tokens.tolist(),
        }
    )
    return Draft(payload, cost(payload, served.card, served.capacity), uploads)


def _check(parent: Job, fields: ForkRequest) -> None:
    if parent.state not in ("running", "succeeded"):
        must_have_succeeded(parent)
    if parent.payload["windowed"]:
        raise Problem.field("step", "what is drawn in several windows can't be forked", "windowed")
    if fields.image_index >= parent.payload["n"]:
        message = f"the job has {parent.payload['n']} pictures, counted from 0"
        raise Problem.field("image_index", message, "no_such_image")
    if len(_forks(parent, fields)) > MAX_FORKS:
        raise Problem.field("step", f"a picture may be the fork of a fork {MAX_FORKS} times, no more", "too_deep")


def _check_same_model(parent: Job, card: ModelCard) -> None:
    """Its tokens, and what goes on from them, are worth something to the very same model alone. A job that runs still
    does not say."""
    for what, name in (("tokenizer", card.tokenizer), ("weights", card.weights)):
        drawn_with = (parent.result or {}).get(what)
        if drawn_with and drawn_with != name:
            raise Problem(409, f"other_{what}", f"{card.name} is another by now: not the {what} that drew the picture")


def _forks(parent: Job, fields: ForkRequest) -> list[tuple[int, int]]:
    """Of the new pictures: see recipe.forked."""
    earlier = [(step, seed) for step, seed in parent.payload.get("forks", ())]
    return list(forked(earlier, parent.payload["seeds"][fields.image_index], fields.step))


def _check_step(step: int, progress: Progress) -> None:
    if progress.steps == 1:
        raise Problem.field("step", "a picture of one step can't be forked: nothing is left to draw after it", "step")
    if not step < progress.steps:
        raise Problem.field("step", f"must be between 1 and {progress.steps - 1}: there are {progress.steps}", "step")
    if step > progress.step:
        raise _not_yet(f"the picture is at step {progress.step}")


async def _progress(services: Services, job: Job, index: int, card: ModelCard) -> Progress:
    """Raises Problem where nothing is drawn yet."""
    if job.state == "succeeded" and job.result is not None:
        steps = job.result["usage"]["steps"]
        return Progress(steps, steps, np.array(job.result["images"][index]["tokens"], dtype=np.int32))
    rows, cols = job.payload.get("grid") or card.grid
    # An attempt may follow another one; each tells the whole picture.
    tokens: dict[int, np.ndarray] = defaultdict(lambda: np.full((rows, cols), EMPTY, dtype=np.int32))
    reached: dict[int, tuple[int, int]] = {}
    async for event in services.hub.stored_events(job.id):
        if event.name == "tokens" and (data := event.json())["image_index"] == index:
            attempt, _ = event.position
            tokens[attempt].flat[data["positions"]] = data["tokens"]
            reached[attempt] = (data["step"], data["steps"])
    if not reached:
        raise _not_yet("the picture is not begun yet")
    furthest = max(reached, key=lambda attempt: (reached[attempt][0], attempt))
    return Progress(*reached[furthest], tokens[furthest])


def _not_yet(message: str) -> Problem:
    problem = Problem.field("step", message, "not_reached_yet", status=409)
    problem.headers["Retry-After"] = "1"
    return problem


async def _inheritance(submission: Submission, parent: Job, index: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the new pictures start from as their parent did: fields of the payload, and uploads of their own, since the
    parent's don't outlive it. Raises Problem where these are gone."""
    services = submission.services
    stored = await _stored(services, parent, needed_to_fork if parent.state == "succeeded" else uploads_of)
    if stored is None:
        # It ended a moment ago, and gave back what its pictures tell as well.
        parent = await find_job(services, submission.client, parent.id)
        must_have_succeeded(parent)
        stored = await _stored(services, parent, needed_to_fork)
    if stored is None:
        raise Problem(410, "expired", "what the job started from is no longer kept")
    if parent.state != "succeeded" or not uploads_of(parent.payload):
        return {}, stored
    made, png = await find_picture(services, parent, index)
    return {"tokens": made["tokens"]}, {"image": png} | stored


async def _stored(
    services: Services, job: Job, named: Callable[[Mapping[str, Any]], dict[str, str]]
) -> dict[str, bytes] | None:
    files = {what: await services.blobs.get(name) for what, name in named(job.payload).items()}
    return None if None in files.values() else {what: data for what, data in files.items() if data is not None}
