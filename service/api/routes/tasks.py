"""One route a task: read the body, plan, create the job, present it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from engine.card import ModelCard
from service.api.bodies import Body, json_content, json_fields, read_body, reference
from service.api.create_job import check_priority, check_results_fit, create_job, refusals_counted, replay
from service.api.job_access import not_draining
from service.api.pictures import starting_point
from service.api.problems import described
from service.api.schemas import ANSWERS
from service.api.submission import Submission, SubmissionDep
from service.jobs import Job
from service.jobs.spec import JobSpec
from service.tasks.expand import ExpandRequest
from service.tasks.generate import GenerateRequest
from service.tasks.planning import cost, with_seed
from service.tasks.registry import TASKS
from service.tasks.task import Task

router = APIRouter(prefix="/v1", tags=["tasks"], dependencies=[Depends(not_draining)])

_GENERATE = json_content(
    GenerateRequest,
    {
        "by name": {"class": "mushroom", "seed": 7},
        "fast": {"class": 3, "steps": 16, "n": 4},
        "by prompt, with a model that takes text": {"prompt": "a purple mug on a green floor"},
        "without a class": {"class": None},
    },
)
_EXPAND = json_content(
    ExpandRequest,
    {
        "half as large again": {"class": "house", "width": 192, "height": 192},
        "a panorama, window after window": {"class": "table", "width": 512, "height": 128, "method": "windowed"},
    },
)

_SOURCE_ANSWERS = ANSWERS | described(404, 409, 410)
_FROM_SOURCE = {"source": {"job": "66b2f0c4-0f6d1c2b3a495867", "image": 0}}


def _described(task: Task, examples: dict[str, Any]) -> dict[str, Any]:
    """The two kinds of body, for OpenAPI."""
    assert task.form is not None
    described = json_content(task.request, examples)
    described["requestBody"]["content"]["multipart/form-data"] = {"schema": reference(task.form)}
    return described


_INPAINT = _described(
    TASKS["inpaint"],
    {
        "an upload": {"image": "iVBORw0KGgo…", "mask": "iVBORw0KGgo…", "class": "tree"},
        "edit: another class in a picture drawn here": _FROM_SOURCE | {"mask": "iVBORw0KGgo…", "class": "house"},
    },
)
_OUTPAINT = _described(
    TASKS["outpaint"],
    {
        "to both sides of an upload": {"image": "iVBORw0KGgo…", "left": 64, "right": 64, "class": "house"},
        "below a picture drawn here": _FROM_SOURCE | {"down": 128},
    },
)
_VARY = _described(
    TASKS["vary"],
    {
        "half of an upload": {"image": "iVBORw0KGgo…", "keep": 0.5, "class": "cone"},
        "four of a picture drawn here": _FROM_SOURCE | {"keep": 0.25, "n": 4},
    },
)


@router.post("/generate", response_model=None, status_code=202, responses=ANSWERS, openapi_extra=_GENERATE)
async def generate(
    submission: SubmissionDep, fields: Annotated[GenerateRequest, Depends(json_fields(GenerateRequest))]
) -> Response:
    """Draw n pictures of a class, or of a prompt with a model that takes text."""
    return await submission.answer(await _submitted(submission, TASKS["generate"], Body.of(fields)))


@router.post("/expand", response_model=None, status_code=202, responses=ANSWERS, openapi_extra=_EXPAND)
async def expand(
    submission: SubmissionDep, fields: Annotated[ExpandRequest, Depends(json_fields(ExpandRequest))]
) -> Response:
    """Draw n pictures on a grid larger than the model was trained on, up to 4 times its tokens."""
    return await submission.answer(await _submitted(submission, TASKS["expand"], Body.of(fields)))


@router.post("/inpaint", response_model=None, status_code=202, responses=_SOURCE_ANSWERS, openapi_extra=_INPAINT)
async def inpaint(submission: SubmissionDep) -> Response:
    """Redraw the part of a picture that a mask selects; pixels outside the mask keep their values.

    With another class or prompt than the picture's, this edits. The model redraws every token that the mask touches.
    The result takes only the pixels inside the mask from it.
    """
    return await _run_on_picture(submission, TASKS["inpaint"])


@router.post("/outpaint", response_model=None, status_code=202, responses=_SOURCE_ANSWERS, openapi_extra=_OUTPAINT)
async def outpaint(submission: SubmissionDep) -> Response:
    """Draw beyond the borders of a picture of any size; its own pixels keep their values.

    The padding is rounded up to whole tokens (`padding` in the job), at the scale at which the picture's short side
    is the model's own. The result may have 4 times as many tokens as the model draws at once.
    """
    return await _run_on_picture(submission, TASKS["outpaint"])


@router.post("/vary", response_model=None, status_code=202, responses=_SOURCE_ANSWERS, openapi_extra=_VARY)
async def vary(submission: SubmissionDep) -> Response:
    """Keep a share of a picture's tokens, scattered over it, and draw the rest again.

    The result has the picture's size and none of its pixels.
    """
    return await _run_on_picture(submission, TASKS["vary"])


async def _run_on_picture(submission: Submission, task: Task) -> Response:
    job = await _submitted(submission, task, await read_body(submission.request, task))
    submission.request.state.release_body()  # the answer may take a minute, and nothing refers to the body any more
    return await submission.answer(job)


async def _submitted(submission: Submission, task: Task, body: Body) -> Job:
    job = await replay(submission.services, submission.client, task.name, submission.key, body.digest)
    if job is None:
        submission.preference(body.fields.n, body.fields.format)  # refused before any work is done
        job = await new_job(submission, task, body, route=task.name)
    return job


async def new_job(
    submission: Submission,
    task: Task,
    body: Body,
    *,
    route: str,
    decide: Callable[[JobSpec, ModelCard], JobSpec] = lambda spec, card: spec,
) -> Job:
    """Plans the task and submits its job. route: the kind of request that an idempotency key belongs to. decide: what
    another route decides about the job after the plan. Raises Problem."""
    services, client, fields = submission.services, submission.client, body.fields
    check_priority(client, fields.priority)
    with refusals_counted(services, fields.model, task.name):
        start = await starting_point(services, client, submission.request, body, task)
        spec = decide(task.plan(with_seed(fields), start.facts, start.served.card), start.served.card)
        if task.size_field is not None:
            check_results_fit(services, spec.n, spec.size, task.size_field)
        return await create_job(
            services,
            client,
            spec,
            route=route,
            cost=cost(spec, start.served.card, start.served.capacity),
            key=submission.key,
            digest=body.digest,
            priority=fields.priority,
            uploads=start.uploads,
            options=submission.options,
        )
