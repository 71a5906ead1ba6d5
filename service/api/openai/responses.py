"""Finished pictures, in OpenAI's shape: what both kinds of answer tell, and the answer as JSON."""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from service.api.dependencies import in_thread
from service.api.job_access import (
    find_picture,
    link_token,
    must_have_succeeded,
    read_result,
    read_spec,
    status_without_picture,
)
from service.api.openai import sizes
from service.api.openai.schemas import ImagesRequest
from service.api.presenter import awaited, job_url, root_of
from service.api.submission import Submission
from service.errors import Problem, draining
from service.jobs import FINAL_STATES, Job
from service.jobs.messages import encode_event
from service.jobs.result import JobResult
from service.jobs.spec import JobSpec
from service.services import Services
from service.tasks.pictures import images

NO_RETRY = {"X-Should-Retry": "false"}
"""OpenAI's clients repeat a request after 409, 429 and 5xx. Without an idempotency key that would draw again."""


def headers_of(submission: Submission, job: Job) -> dict[str, str]:
    return {"Location": job_url(root_of(submission.request), job.id), "X-Job-ID": job.id}


async def images_response(submission: Submission, job: Job, wanted: ImagesRequest) -> Response:
    """The pictures, once the job has ended. Raises Problem."""
    services, request = submission.services, submission.request
    headers = headers_of(submission, job)
    more = headers if submission.key else headers | NO_RETRY
    limit = services.settings.picture_wait
    job = await awaited(services, request, job, limit, cancel_on_disconnect=submission.cancel_on_disconnect)
    if job.state not in FINAL_STATES:
        going = f"the job goes on; follow it at {headers['Location']}"
        if services.lifecycle.closing.is_set():
            raise draining(services.settings.retry_after, going, more)
        raise Problem(
            504, "not_done_yet", f"not done within {limit:g} s; {going}", headers={**more, "Retry-After": "1"}
        )
    try:
        result = succeeded(job)
        if wanted.response_format == "url":
            answer: Response = JSONResponse(await _with_urls(submission, job, result, wanted))
        else:
            answer = await _with_pictures(services, request, job, result, wanted)
    except Problem as problem:
        problem.headers |= headers | NO_RETRY
        raise
    answer.headers.update(headers)
    return answer


def succeeded(job: Job) -> JobResult:
    """The result of a job that has ended. Raises Problem: a job that failed is a server error."""
    try:
        must_have_succeeded(job)
    except Problem as problem:
        problem.status = status_without_picture(job, problem)
        raise
    result = read_result(job)
    assert result is not None
    return result


def common_fields(wanted: ImagesRequest, spec: JobSpec) -> dict[str, Any]:
    """Of every response and event."""
    fields = {
        "background": "opaque",
        "output_format": spec.output.format,
        "quality": wanted.tier,
        "size": sizes.text(spec.size),
    }
    return fields | ({"safety_identifier": wanted.identifier} if wanted.identifier else {})


def usage(result: JobResult, spec: JobSpec) -> dict[str, Any]:
    known, drawn = result.usage["tokens_known"], result.usage["tokens_drawn"]
    text = result.usage.get("tokens_text", int(spec.class_label is not None))
    return {
        "input_tokens": text + known,
        "input_tokens_details": {"text_tokens": text, "image_tokens": known},
        "output_tokens": drawn,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": drawn},
        "total_tokens": text + known + drawn,
    }


def warnings(result: JobResult) -> dict[str, Any]:
    """Their field, if there are any."""
    return {"warnings": [warning.model_dump() for warning in result.warnings]} if result.warnings else {}


def created(job: Job) -> int:
    return int(job.finished_at or time.time())


def _document(job: Job, result: JobResult, wanted: ImagesRequest) -> dict[str, Any]:
    """All but the pictures."""
    spec = read_spec(job)
    return {"created": created(job), **common_fields(wanted, spec), "usage": usage(result, spec), **warnings(result)}


async def _with_urls(submission: Submission, job: Job, result: JobResult, wanted: ImagesRequest) -> dict[str, Any]:
    request = submission.request
    token, _ = await link_token(submission.services, submission.client, job.id)
    own = f"{_origin(request)}{job_url(root_of(request), job.id)}/images"
    data = [{"url": f"{own}/{image.index}{token}", "seed": image.seed} for image in result.images]
    return _document(job, result, wanted) | {"data": data}


def _origin(request: Request) -> str:
    """As the client, or the proxy in front, names this server."""
    headers = request.headers
    host = headers.get("x-forwarded-host", "").partition(",")[0].strip() or request.url.netloc
    scheme = headers.get("x-forwarded-proto", "").partition(",")[0].strip() or request.url.scheme
    return f"{scheme}://{host}"


async def _with_pictures(
    services: Services, request: Request, job: Job, result: JobResult, wanted: ImagesRequest
) -> Response:
    """Base64 is made while the answer is sent, one picture after another: sixteen large ones take much memory."""
    spec, files = read_spec(job), []
    for image in result.images:
        _, file = await find_picture(services, job, image.index)
        if spec.output.format != "png":
            transcoding = (images.transcode, file, spec.output.format, spec.output.quality)
            file = await in_thread(services, request, job.client, *transcoding)
        files.append(file)
    texts = [encode_event(_document(job, result, wanted))[:-1] + b',"data":[']
    for image in result.images:
        texts[-1] += b'{"b64_json":"'
        texts.append(b'","seed":%d},' % image.seed)
    texts[-1] = texts[-1].removesuffix(b",") + b"]}"

    async def body() -> AsyncIterator[bytes]:
        for text, file in itertools.zip_longest(texts, files):
            yield text
            if file is not None:
                yield await anyio.to_thread.run_sync(base64.b64encode, file)

    size = sum(map(len, texts)) + sum(4 * -(-len(file) // 3) for file in files)
    return StreamingResponse(body(), media_type="application/json", headers={"Content-Length": str(size)})
