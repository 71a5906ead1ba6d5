"""The bodies of OpenAI's images API: requests, with what each field means here, and responses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.jobs.result import JobWarning
from service.jobs.spec import MAX_PROMPT
from service.tasks.expand import ExpandRequest
from service.tasks.fields import MAX_IMAGES, ShownSeed
from service.tasks.inpaint import InpaintFields
from service.tasks.pictures.images import Format

MAX_PARTIAL_IMAGES = 3
MAX_NAME = 512

REFUSED = {
    "style": "the models have no styles; leave it out",
    "complexity": "no model plans before it draws; leave it out",
    "svg": "only png, jpeg and webp are drawn; leave it out",
    "frame_count": "animations are not drawn; leave it out",
    "frame_duration_ms": "animations are not drawn; leave it out",
    "markup": "the models can't read markup; send a mask, whose transparent part is drawn again",
    "class": "send the class as prompt",
    "format": "send output_format",
    "previews": "send partial_images, with stream=true",
    "width": "send size, as WIDTHxHEIGHT",
    "height": "send size, as WIDTHxHEIGHT",
    "source": "send the picture itself to /v1/images/edits; /v1/inpaint takes a source",
}
"""Fields of OpenAI's API, and of this server's other routes, that mean nothing here: each with the remedy."""


def extras(task: type[BaseModel]) -> dict[str, Any]:
    """By name, the schemas of a task's fields that a request may have beside OpenAI's (`extra_body`)."""
    properties: dict[str, Any] = task.model_json_schema()["properties"]
    own = ImagesRequest.model_fields.keys() | REFUSED.keys()
    return {name: schema for name, schema in properties.items() if name not in own}


def _with_extras(task: type[BaseModel], schema: dict[str, Any]) -> None:
    schema["properties"] |= extras(task)
    schema["additionalProperties"] = False


class ImagesRequest(BaseModel):
    """The fields that drawing and editing share. Null is as if left out."""

    model_config = ConfigDict(extra="allow", strict=True)

    prompt: str = Field(
        min_length=1,
        max_length=32_000,
        description="What to draw. Models of classes take the name of a class, a synonym, its WordNet id or label; "
        f"models whose conditioning is text take any words, up to {MAX_PROMPT} characters",
    )
    model: str | None = Field(
        None, max_length=200, description="The model's name; needed where the server has several models"
    )
    n: int | None = Field(None, ge=1, le=MAX_IMAGES, description="How many pictures; 1 with stream=true")
    size: str | None = Field(None, max_length=20, description="auto, or WIDTHxHEIGHT in pixels")
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] | None = Field(
        None,
        description="The number of steps: low takes a quarter of the model's own, medium half, the others all of them",
    )
    background: Literal["auto", "opaque"] | None = Field(None, description="Pictures are opaque, with either")
    output_format: Format | None = Field(None, description="The file format; png if left out")
    output_compression: int | None = Field(
        None, ge=0, le=100, description="The quality of JPEG and WebP files; 100, the largest files, if left out"
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None, description="The pictures themselves, or addresses that need no key until they expire"
    )
    stream: bool | None = Field(None, description="Answer with server-sent events")
    partial_images: int | None = Field(
        None, ge=0, le=MAX_PARTIAL_IMAGES, description="How many partial images the stream has at most"
    )
    safety_identifier: str | None = Field(None, max_length=MAX_NAME, description="Comes back in the response, unused")
    user: str | None = Field(None, max_length=MAX_NAME, description="The same, by its older name")

    @property
    def identifier(self) -> str | None:
        return self.safety_identifier or self.user or None

    @property
    def tier(self) -> Literal["low", "medium", "high"]:
        return self.quality if self.quality in ("low", "medium") else "high"


class ImageGenerationRequest(ImagesRequest):
    """Draw pictures of a class or a prompt, in OpenAI's terms."""

    model_config = ConfigDict(json_schema_extra=lambda schema: _with_extras(ExpandRequest, schema))

    moderation: Literal["low", "auto"] | None = Field(None, description="Nothing is filtered, with either")


class ImageEditRequest(ImagesRequest):
    """The texts of a form that edits a picture."""

    input_fidelity: Literal["high"] | None = Field(
        None, description="Pixels that are not drawn again keep their values: nothing but high"
    )


class ImageEditForm(ImageEditRequest):
    """Draw a part of a picture again, in OpenAI's terms."""

    model_config = ConfigDict(json_schema_extra=lambda schema: _with_extras(InpaintFields, schema))

    image: bytes = Field(description="PNG, JPEG or WebP")
    mask: bytes | None = Field(
        None,
        description="A PNG of the picture's shape; its transparent part is drawn again. Left out: the picture's own",
    )


class GeneratedImage(BaseModel):
    """One picture: itself, or its address."""

    b64_json: str | None = Field(None, description="Base64 of the file, with response_format b64_json")
    url: str | None = Field(None, description="Where to get the file, with response_format url")
    seed: ShownSeed = Field(description="Draws this picture alone, as n=1")


class TokenDetails(BaseModel):
    image_tokens: int
    text_tokens: int


class ImagesUsage(BaseModel):
    """Tokens of all pictures. Input: the prompt, where a class counts as one token of text, and the tokens that an edit
    keeps. Output: the tokens that were drawn."""

    input_tokens: int
    input_tokens_details: TokenDetails
    output_tokens: int
    output_tokens_details: TokenDetails
    total_tokens: int


class ImagesResponse(BaseModel):
    """Finished pictures."""

    created: int = Field(description="When they were finished, as a Unix timestamp")
    background: Literal["opaque"]
    output_format: Format
    quality: Literal["low", "medium", "high"]
    size: str = Field(description="WIDTHxHEIGHT")
    usage: ImagesUsage
    data: list[GeneratedImage]
    warnings: list[JobWarning] | None = Field(
        None, description="What was done otherwise than the request says; left out if nothing was"
    )
    safety_identifier: str | None = Field(None, description="That of the request; left out if it has none")


class OpenAIError(BaseModel):
    message: str = Field(description="What is wrong, and what to do")
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None = Field(description="The field at fault")
    code: str = Field(description="Which error it is, for programs")


class OpenAIErrorBody(BaseModel):
    """The body of every error response under /v1/images."""

    error: OpenAIError
