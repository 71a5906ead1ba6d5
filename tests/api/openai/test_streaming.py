"""The official client follows a picture: partial images really come, and no stream ends without a word."""

from __future__ import annotations

import base64
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI, Stream
from openai.types import ImageGenStreamEvent
from PIL import Image

from service.api.openai import partial
from service.jobs import Claim
from service.jobs.spec import JobSpec
from service.settings import Settings
from service.worker import events
from tests.api.openai.official import next_claim, openai_client, opened, pixels
from tests.support.api import Api, noise, running_api, saved, spec_of
from tests.support.waiting import PATIENCE, eventually

STARTED = {"attempt": 1, "images": 1, "grid": [4, 4], "steps": 8, "known": 0}
FIELDS = {"background": "opaque", "output_format": "png", "quality": "high", "size": "32x32"}
USAGE = {
    "input_tokens": 1, "input_tokens_details": {"text_tokens": 1, "image_tokens": 0},
    "output_tokens": 16, "total_tokens": 17,
}  # fmt: skip


def streamed(client: OpenAI, partial_images: int = 2, **fields: Any) -> Stream[ImageGenStreamEvent]:
    return client.images.generate(prompt="cone", stream=True, partial_images=partial_images, **fields)


def grey(level: int) -> np.ndarray:
    return np.full((32, 32, 3), level, dtype=np.uint8)


def preview(api: Api, claim: Claim, sequence: int, step: int, picture: np.ndarray) -> None:
    jpeg = base64.b64encode(saved(Image.fromarray(picture), "JPEG", quality=95)).decode()
    api.publish(claim, sequence, "preview", events.preview(0, step, jpeg))


def tokens(api: Api, claim: Claim, sequence: int, positions: list[int]) -> None:
    done = {"n_done": len(positions), "n_total": 16}
    data = {"image_index": 0, "step": 8, "steps": 8, "positions": positions, "tokens": [0] * len(positions)}
    api.publish(claim, sequence, "tokens", data | done)


def finish(api: Api, claim: Claim, sequence: int) -> None:
    api.finish(claim, sequence, [*spec_of(claim).seeds])


def test_partial_images_come_while_the_picture_is_drawn(api: Api, client: OpenAI) -> None:
    stream = streamed(client, extra_body={"seed": 5})
    claim = next_claim(api)
    assert spec_of(claim).output.previews == 3  # at steps 3 and 6 of 8
    api.publish(claim, 1, "started", STARTED)
    found: list[dict[str, Any]] = []
    for sequence, (step, level) in enumerate(((3, 50), (6, 150)), start=2):
        preview(api, claim, sequence, step, grey(level))
        event = next(stream)
        assert event.type == "image_generation.partial_image"
        assert opened(event.b64_json).format == "PNG"
        assert abs(pixels(event.b64_json).astype(int) - level).max() <= 2
        found.append(event.to_dict())
    preview(api, claim, 4, 7, grey(0))  # a third one was not wanted
    finish(api, claim, 5)
    last = next(stream)
    assert last.type == "image_generation.completed"
    assert (pixels(last.b64_json) == noise(32, 32)).all()
    found.append(last.to_dict())
    assert list(stream) == []
    for event_data in found:
        assert abs(event_data.pop("created_at") - time.time()) < 60
        del event_data["b64_json"]
    assert found == [
        {"type": "image_generation.partial_image", "partial_image_index": 0, **FIELDS},
        {"type": "image_generation.partial_image", "partial_image_index": 1, **FIELDS},
        {"type": "image_generation.completed", "usage": USAGE, "seed": 5, **FIELDS},
    ]


def test_heartbeats_are_no_events(api: Api, client: OpenAI) -> None:
    """The official client's decoder stumbles over a heartbeat that is a block of its own."""
    with api.client.stream("POST", "/v1/images/generations", json={"prompt": "cone", "stream": True}) as response:
        lines = response.iter_lines()
        assert response.headers["content-type"].startswith("text/event-stream")
        claim = next_claim(api)
        assert next(lines) == ": heartbeat"
        finish(api, claim, 1)
        rest = [line for line in lines if line != ": heartbeat"]
    assert [line.partition(":")[0] for line in rest] == ["event", "data", ""]
    assert rest[0] == "event: image_generation.completed"

    stream = streamed(client, 0)
    claim = next_claim(api)
    time.sleep(1.5 * api.settings.heartbeat)
    finish(api, claim, 1)
    assert [event.type for event in stream] == ["image_generation.completed"]


@pytest.mark.parametrize("wanted", [1, 3])
def test_a_picture_that_is_drawn_faster_than_a_preview_is_shown_half_drawn(
    api: Api, client: OpenAI, wanted: int
) -> None:
    stream = streamed(client, wanted)
    claim = next_claim(api)
    api.publish(claim, 1, "started", STARTED)
    tokens(api, claim, 2, [*range(8, 16), *range(8)])  # the lower half first
    finish(api, claim, 3)
    half, last = stream
    assert (half.type, last.type) == ("image_generation.partial_image", "image_generation.completed")
    assert (pixels(half.b64_json)[:16] == 128).all()
    assert (pixels(half.b64_json)[16:] == noise(32, 32)[16:]).all()


def test_events_that_come_while_a_partial_image_is_made_are_not_missed(
    api: Api, client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(preview: bytes, spec: JobSpec) -> str:
        begun.set()
        assert go_on.wait(PATIENCE)
        return partial.shown(preview, spec)

    monkeypatch.setattr("service.api.openai.stream.shown", slow)
    monkeypatch.setattr(api.app.services.hub, "buffer", 1)
    stream = streamed(client, 1)
    claim = next_claim(api)
    preview(api, claim, 1, 4, grey(9))
    assert begun.wait(PATIENCE)
    for sequence in range(2, 8):
        tokens(api, claim, sequence, [sequence])
    finish(api, claim, 8)
    go_on.set()
    assert [event.type.rpartition(".")[2] for event in stream] == ["partial_image", "completed"]


def test_a_job_that_fails_raises(api: Api, client: OpenAI) -> None:
    stream = streamed(client)
    claim = next_claim(api)
    error = {"code": "not_finite", "message": "the model's numbers overflowed"}
    ended: dict[str, Any] = {"state": "failed", "event": "failed", "data": {"error": error}, "error": error}
    api.queue(lambda queue, _, __: queue.finish(claim.id, claim.attempt, 1, **ended))
    with pytest.raises(openai.APIError, match="the model's numbers overflowed") as told:
        next(stream)
    assert (told.value.code, told.value.type) == ("not_finite", "server_error")


@pytest.mark.parametrize(("key", "state"), [({}, "canceled"), ({"Idempotency-Key": "back"}, "queued")])
def test_who_leaves_a_stream_without_a_key_cancels(api: Api, client: OpenAI, key: dict[str, str], state: str) -> None:
    stream = streamed(client, extra_headers=key)
    id = stream.response.headers["x-job-id"]
    stream.close()
    assert eventually(lambda: "arpg_http_streams 0.0" in api.client.get("/metrics").text)
    assert eventually(lambda: api.client.get(f"/v1/jobs/{id}").json()["status"] == state)


@pytest.fixture
def settings(redis_socket: Path) -> Settings:
    return Settings(redis_url=f"unix://{redis_socket}", namespace="restarted", stream_life=60, _env_file=None)


def test_a_restart_in_mid_stream_raises_and_a_repeat_goes_on(settings: Settings) -> None:
    key = {"Idempotency-Key": "one"}
    with running_api(settings) as api, openai_client(api.url) as client:
        api.show_card()
        stream = streamed(client, 1, extra_headers=key)
        claim = next_claim(api)
        api.publish(claim, 1, "started", STARTED)
        preview(api, claim, 2, 4, grey(70))
        assert next(stream).type == "image_generation.partial_image"
        api.loop.call_soon_threadsafe(api.lifecycle.closing.set)
        with pytest.raises(openai.APIError, match="the job goes on, or has ended: see /v1/jobs/") as told:
            next(stream)
        assert (told.value.code, told.value.type) == ("shutting_down", "server_error")
    with running_api(settings) as api, openai_client(api.url) as client:
        stream = streamed(client, 1, extra_headers=key)
        assert stream.response.headers["x-job-id"] == claim.id
        finish(api, claim, 3)
        assert [event.type for event in stream] == ["image_generation.partial_image", "image_generation.completed"]


def test_an_old_stream_ends_with_an_error(redis_socket: Path) -> None:
    settings = Settings(redis_url=f"unix://{redis_socket}", namespace="old", stream_life=0.3, _env_file=None)
    with running_api(settings) as api, openai_client(api.url) as client:
        api.show_card()
        stream = streamed(client)
        with pytest.raises(openai.APIError, match=r"not done within 0.3 s; the job goes on") as told:
            next(stream)
        assert told.value.code == "not_done_yet"
        job = httpx.get(f"{api.url}{stream.response.headers['location']}").json()
        assert job["status"] == "queued"
        api.empty()
