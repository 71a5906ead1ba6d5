"""The responses, as OpenAPI describes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from service.api import sse
from service.api.problems import described
from service.jobs.result import JobWarning
from service.tasks.expand import Method
from service.tasks.fields import ShownSeed, Source
from service.tasks.pictures.images import MEDIA_TYPES, Format
from service.tasks.pictures.masks import MaskMode

Task = Literal["generate", "expand", "inpaint", "outpaint", "vary"]
Status = Literal["queued", "running", "succeeded", "failed", "canceled"]


def _absent(value: object) -> bool:
    return value is None


class ResolvedRequest(BaseModel):
    """The request with every default filled in. Sent again, it draws the same pictures. Null: the parameter does not
    apply to the model, or it was left out and has no default."""

    model: str
    class_: int | None = Field(alias="class")
    prompt: str | None = Field(None, exclude_if=_absent)
    negative_prompt: str | None = Field(None, exclude_if=_absent)
    n: int
    seed: ShownSeed
    steps: int | None
    schedule: str | None
    guidance_scale: float | None
    guidance_schedule: str | None
    guidance_interval: int | None = None
    content_attention: str | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    order: list[int] | None
    previews: int
    format: Format
    quality: int
    mask_mode: MaskMode | None = Field(None, exclude_if=_absent)
    feather: int | None = Field(None, exclude_if=_absent)
    seamless: bool | None = Field(None, exclude_if=_absent)
    left: int | None = Field(None, exclude_if=_absent)
    right: int | None = Field(None, exclude_if=_absent)
    up: int | None = Field(None, exclude_if=_absent)
    down: int | None = Field(None, exclude_if=_absent)
    keep: float | None = Field(None, exclude_if=_absent)
    keep_seed: ShownSeed | None = Field(None, exclude_if=_absent)
    width: int | None = Field(None, exclude_if=_absent)
    height: int | None = Field(None, exclude_if=_absent)
    method: Method | None = Field(None, exclude_if=_absent)
    source: Source | None = Field(None, exclude_if=_absent)


class Fork(BaseModel):
    """The picture and the step at which a fork's pictures begin to differ from it."""

    job: str
    image: int
    step: int


class PaddingObject(BaseModel):
    """Pixels added around a picture: the requested ones, rounded up to whole tokens."""

    left: int
    right: int
    up: int
    down: int


class JobImage(BaseModel):
    url: str
    seed: ShownSeed = Field(description="Draws this picture alone, as n=1")
    width: int
    height: int


class JobError(BaseModel):
    code: str
    message: str
    field: str | None = Field(None, description="The field of the request at fault; null: the request was not at fault")


class JobUrls(BaseModel):
    self: str
    events: str
    cancel: str


class JobWebhook(BaseModel):
    """The webhook of a job: whether it has been delivered, and why the last call did not deliver it."""

    url: str
    state: Literal["pending", "delivered", "failed"]
    tries: int
    error: str


class JobObject(BaseModel):
    """A job, from its acceptance until it expires."""

    id: str
    task: Task
    status: Status
    position: int | None = Field(description="Jobs ahead of it; null when it is not queued")
    eta_seconds: float | None = Field(
        description="Until the job ends, estimated from the last jobs of its model; null: unknown, or the job has ended"
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="When the job, its events and its pictures are deleted")
    start_by: datetime | None = Field(
        None, exclude_if=_absent, description="If no worker has begun with the job by then, it fails (X-Start-Timeout)"
    )
    model: str
    class_name: str | None
    request: ResolvedRequest
    width: int = Field(description="Of the job's pictures, in pixels")
    height: int
    padding: PaddingObject | None = Field(
        None, exclude_if=_absent, description="Of an outpainting: the pixels added on each side"
    )
    fork: Fork | None = Field(None, exclude_if=_absent)
    images: list[JobImage]
    mask_tokens: list[list[int]] | None = Field(
        None,
        exclude_if=_absent,
        description="1 where a token is drawn, 0 where it is given. Of an inpainting: the mask, in tokens",
    )
    error: JobError | None
    urls: JobUrls
    timings: dict[str, float] = Field(description="Seconds of each stage that is over, in the last attempt")
    usage: dict[str, int]
    warnings: list[JobWarning] = Field(description="What was done otherwise than the request says, once it is known")
    webhook: JobWebhook | None = Field(None, exclude_if=_absent)


class ListedJobObject(BaseModel):
    """A job in a list: without its request, timings and seeds, which are at `urls.self`. Null: an older version of the
    service accepted the job, and does not tell."""

    id: str
    task: Task | None
    status: Status
    position: int | None = Field(description="Jobs ahead of it; null when it is not queued")
    eta_seconds: float | None = Field(description="Until it ends, as in the job; null: unknown, or it has ended")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    model: str
    class_name: str | None
    prompt: str | None = Field(None, exclude_if=_absent)
    n: int | None = Field(description="How many pictures")
    width: int | None
    height: int | None
    images: list[str] = Field(description="Addresses of its pictures, once it has succeeded")
    error: JobError | None
    urls: JobUrls


class JobList(BaseModel):
    """A page of the client's jobs, the newest first."""

    jobs: list[ListedJobObject]
    next_cursor: str | None = Field(description="`?cursor=` of the next page; null: this is the last page")


class ModelLoad(BaseModel):
    """What a model's workers do now, all together."""

    model: str
    workers: int
    queued: int = Field(description="Jobs that wait for a worker")
    running: int = Field(description="Jobs that workers draw")
    pictures: int = Field(description="Pictures of these jobs that are drawn now")
    tokens_per_second: float = Field(description="Drawn in the last two seconds")
    kv_pages: int = Field(description="Pages of the KV caches")
    kv_pages_used: int


class Load(BaseModel):
    """What the service does now. Workers report it each second."""

    models: list[ModelLoad]


class WebhookSecret(BaseModel):
    """Standard Webhooks: the signature is the HMAC-SHA256 of `{webhook-id}.{webhook-timestamp}.{body}`."""

    secret: str = Field(description="`whsec_` and base64, as the libraries of Standard Webhooks take it")


class ClassObject(BaseModel):
    label: int
    name: str
    synonyms: list[str]
    wordnet_id: str | None = Field(description="Of a class of ImageNet; null for other classes")


class ListedModel(BaseModel):
    """A model as OpenAI's API lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Since when a live worker serves it, as a Unix timestamp")
    owned_by: Literal["arpg-serve"] = "arpg-serve"


class ModelObject(ListedModel):
    """A model that a live worker serves."""

    family: str
    conditioning: Literal["class", "text"] = Field(
        description="What a request says to draw: a `class`, or a `prompt` in words"
    )
    description: str
    licence: str
    tasks: list[str]
    grid: tuple[int, int] = Field(description="Rows and columns of tokens")
    width: int
    height: int
    codebook_size: int
    classes: int = Field(description="How many; their names are at urls.classes")
    settings: list[str] = Field(description="The sampling fields that the model supports; others are rejected with 422")
    steps: int | None = Field(description="Forward steps of a picture; null: the request sets them")
    defaults: dict[str, Any]
    task_defaults: dict[str, dict[str, Any]] = Field(description="By task, the defaults that differ from `defaults`")
    example_prompts: list[str] = Field(description="Of a model that takes prompts: some that it draws well")
    workers: int
    urls: dict[str, str]


class ModelList(BaseModel):
    """The models, for two kinds of clients."""

    object: Literal["list"] = "list"
    models: list[ModelObject]
    data: list[ListedModel] = Field(description="The same models, as far as OpenAI's API describes a model")


class ClassList(BaseModel):
    classes: list[ClassObject]
    total: int = Field(description="How many classes there are, or match q")


class Palette(BaseModel):
    """A colour patch for every token: with it a client can paint a picture from token events alone."""

    codes: int
    height: int = 4
    width: int = 4
    rgb: str = Field(description="base64 of uint8 [codes][height][width][3]")


class Session(BaseModel):
    """The client that the session cookie identifies."""

    client: str
    expires_at: datetime | None = Field(description="Null: no key is needed here, and there is no session")


class Links(BaseModel):
    """Signed addresses that need no key until they expire."""

    events: str
    images: list[str]
    expires_at: datetime | None = Field(description="Null: no key is needed here, and the addresses are not signed")


_PICTURES: dict[str, Any] = {
    media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()
}
_STREAM: dict[str, Any] = {sse.MEDIA_TYPE: {"schema": {"type": "string"}}}

ANSWERS: dict[int | str, dict[str, Any]] = {
    202: {"model": JobObject, "description": "The job is accepted; `Location` says where to follow it"},
    200: {
        "model": JobObject,
        "description": "With `Prefer: wait=N`, the job, ended in time. With `Accept: text/event-stream`, its events. "
        "With `Accept: image/png`, `image/jpeg` or `image/webp`, the picture itself",
        "content": _STREAM | _PICTURES,
    },
    **described(400, 406, 413, 415, 422),
    504: described(504)[504]
    | {"description": "The client accepts only a picture, and the picture is not finished in time. The job continues"},
}
"""The kinds of answer of a route that makes a job, by Accept and Prefer."""
