"""Going on from a step of a picture, as something else: /v1/jobs/{id}/fork."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends
from fastapi.responses import Response

from engine.card import ModelCard
from engine.request import EMPTY
from service.api.bodies import json_content, json_fields
from service.api.create_job import check_priority, check_results_fit, create_job, refusals_counted, replay
from service.api.dependencies import choose_model
from service.api.job_access import (
    check_room,
    find_job,
    find_picture,
    must_have_succeeded,
    not_draining,
    read_result,
    read_spec,
)
from service.api.problems import described
from service.api.routes.jobs import JobId
from service.api.schemas import ANSWERS
from service.api.submission import Submission, SubmissionDep
from service.errors import Problem
from service.jobs import Job
from service.jobs.result import FINGERPRINTS, other_model
from service.jobs.spec import JobSpec
from service.services import Services
from service.tasks import fork as fork_task
from service.tasks.fork import ForkProgress, ForkRequest
from service.tasks.pictures.inputs import fork_blobs
from service.tasks.planning import cost

router = APIRouter(prefix="/v1/jobs/{id}", tags=["jobs"], dependencies=[Depends(not_draining)])

_BODY = json_content(
    ForkRequest,
    {
        "three that share the first 8 steps": {"step": 8, "n": 3},
        "of the job's second picture, reproducibly": {"step": 20, "image_index": 1, "seed": 7},
    },
)


@router.post(
    "/fork", response_model=None, status_code=202, responses=ANSWERS | described(404, 409, 410), openapi_extra=_BODY
)
async def fork(
    id: JobId, submission: SubmissionDep, fields: Annotated[ForkRequest, Depends(json_fields(ForkRequest))]
) -> Response:
    """Draw n new pictures that share the first steps of one of this job's pictures, finished or not.

    All other parameters are the job's. A picture that was drawn in several windows can't be forked.
    """
    services, client = submission.services, submission.client
    digest = hashlib.sha256(f"{id}\0{fields.model_dump_json()}".encode()).hexdigest()
    job = await replay(services, client, "fork", submission.key, digest)
    if job is None:  # the parent may be gone by the time of a replay
        parent = await find_job(services, client, id)
        submission.preference(fields.n, read_spec(parent).output.format)
        check_priority(client, fields.priority)
        with refusals_counted(services, parent.model, "fork"):
            job = await _create(submission, parent, fields, digest)
    return await submission.answer(job)


async def _create(submission: Submission, parent: Job, fields: ForkRequest, digest: str) -> Job:
    services, client, parent_spec = submission.services, submission.client, read_spec(parent)
    served = await choose_model(services, parent.model, "fork")
    if parent.state not in ("running", "succeeded"):
        must_have_succeeded(parent)
    fork_task.check_parent(fields, parent_spec)
    _check_same_model(parent, served.card)
    await check_room(services, client, served.card.name)
    check_results_fit(services, fields.n, parent_spec.size, "n")
    progress = await _progress(services, parent, fields.image_index, served.card)
    origin = fork_task.checked_origin(fields, parent.id, parent_spec, progress)
    uploads, tokens = await _inheritance(submission, parent, parent_spec, fields.image_index)
    spec = fork_task.plan(fork_task.with_seed(fields), parent_spec, origin, tokens)
    return await create_job(
        services,
        client,
        spec,
        route="fork",
        cost=cost(spec, served.card, served.capacity),
        key=submission.key,
        digest=digest,
        priority=fields.priority,
        uploads=uploads,
        options=submission.options,
    )


def _check_same_model(parent: Job, card: ModelCard) -> None:
    """A picture's tokens mean something to the model that drew them alone. Of a running job, `_progress` checks it."""
    result = read_result(parent)
    if result is not None and (what := other_model(result.model_dump(include={*FINGERPRINTS}), card)):
        raise _drawn_by_another(what, card)


def _drawn_by_another(what: str, card: ModelCard) -> Problem:
    return Problem(409, f"other_{what}", f"{card.name} is another by now: not the {what} that drew the picture")


async def _progress(services: Services, job: Job, index: int, card: ModelCard) -> ForkProgress:
    """card: of the model now. Raises Problem where nothing is drawn yet, or only by another model of this name."""
    if (result := read_result(job)) is not None:
        steps = result.usage["steps"]
        return ForkProgress(steps, steps, result.images[index].tokens())
    grid = read_spec(job).grid
    # Several attempts may have drawn it; each tells the whole picture.
    tokens: dict[int, np.ndarray] = defaultdict(lambda: np.full(grid, EMPTY, dtype=np.int32))
    reached: dict[int, tuple[int, int]] = {}
    others: dict[int, str] = {}
    async for event in services.hub.stored_events(job.id):
        if event.name == "started" and (what := other_model(event.json(), card)):
            others[event.position[0]] = what
        if event.name == "tokens" and (data := event.json())["image_index"] == index:
            attempt, _ = event.position
            tokens[attempt].flat[data["positions"]] = data["tokens"]
            reached[attempt] = (data["step"], data["steps"])
    if reached and not reached.keys() - others:
        raise _drawn_by_another(others[max(reached)], card)
    reached = {attempt: step for attempt, step in reached.items() if attempt not in others}
    if not reached:
        raise fork_task.not_reached_yet("the picture is not begun yet")
    furthest = max(reached, key=lambda attempt: (reached[attempt][0], attempt))
    return ForkProgress(*reached[furthest], tokens[furthest])


async def _inheritance(
    submission: Submission, parent: Job, spec: JobSpec, index: int
) -> tuple[dict[str, bytes], np.ndarray | None]:
    """What the new job starts from: copies of its parent's uploads, since those end with the parent. Of a finished
    job the picture itself, with its tokens, takes the upload's place. Raises Problem where they are no longer kept."""
    services = submission.services
    stored = await _copies(services, fork_blobs(spec) if parent.state == "succeeded" else spec.blobs)
    if stored is None:  # the parent may have ended a moment ago, and its uploads with it
        parent = await find_job(services, submission.client, parent.id)
        must_have_succeeded(parent)
        stored = await _copies(services, fork_blobs(spec))
    if stored is None:
        raise Problem(410, "expired", "what the job started from is no longer kept")
    if parent.state != "succeeded" or not spec.blobs:
        return stored, None
    made, png = await find_picture(services, parent, index)
    return {"image": png} | stored, made.tokens()


async def _copies(services: Services, blobs: Mapping[str, str]) -> dict[str, bytes] | None:
    files = {what: await services.blobs.get(name) for what, name in blobs.items()}
    return None if None in files.values() else {what: data for what, data in files.items() if data is not None}
