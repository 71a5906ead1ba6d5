"""Attacks with pictures: files that take long to decode, small files with many pixels, many large jobs; and with
readers of a job."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from tests.abuse import builders
from tests.abuse.attacks.attack import Attack, Target, Told, hammer
from tests.abuse.web import CLOSED, PATIENCE, form

Form = tuple[dict[str, str], bytes]

SIDE = 4096
SCANS = 7855
CHUNKS = 1_500_000
TAGS = 65_535
AT_ONCE, JOBS, READERS = 80, 48, 500
HANGS_UP = 1.0  # s
JSON = {"Content-Type": "application/json"}
LAST_BYTES = 2**16
_EVENT = re.compile(rb"^event: (\w+)", re.MULTILINE)


# ---- 2 --------------------------------------------------------------------------------------------------------------


def slow_files(target: Target) -> dict[str, Form]:
    tags = builders.exif(target.many(TAGS))
    files = {
        "scans": builders.progressive_jpeg(SIDE, target.many(SCANS)),
        "chunks": builders.crowded_png(target.many(CHUNKS)),
        "EXIF": builders.png_with(builders.chunk(b"eXIf", tags)),
        "EXIF of a WebP": builders.webp_with(b"EXIF", tags),
    }
    return {name: form([("image", file), ("n", b"1")]) for name, file in files.items()}


async def send_slow_files(target: Target, forms: Mapping[str, Form]) -> Told:
    """Four clients send the JPEG and hang up after a second, three more send the other files and wait."""

    def sending(name: str, patience: float) -> Callable[[], Awaitable[str]]:
        headers, body = forms[name]

        async def send() -> str:
            answer = await target.site.ask("POST", "/v1/vary", body=body, headers=headers, patience=patience)
            return f"{name} {answer.outcome}"

        return send

    waiting = [sending(name, PATIENCE) for name in forms if name != "scans"]
    return await hammer(target.seconds, *[sending("scans", HANGS_UP)] * 4, *waiting)


# ---- 3 --------------------------------------------------------------------------------------------------------------


def flat_pictures(_: Target) -> list[Form]:
    """With a mask that is made larger, and with one of another shape."""
    picture = builders.flat_png(SIDE)
    masks = builders.mask_png(8), builders.noise_png(8, 16)
    return [form([("image", picture), ("mask", mask)]) for mask in masks]


async def send_flat_pictures(target: Target, forms: Sequence[Form]) -> Told:
    """Cancels the accepted ones at the end: drawing them is no matter of decoding."""
    accepted = []

    async def send(form: Form) -> str:
        headers, body = form
        answer = await target.site.ask("POST", "/v1/inpaint", body=body, headers=headers)
        if answer.outcome == "202":
            accepted.append(answer.json()["id"])
        return answer.outcome

    senders = [partial(send, forms[number % len(forms)]) for number in range(target.many(AT_ONCE))]
    told = await hammer(target.seconds, *senders)
    await asyncio.gather(*(target.site.ask("DELETE", f"/v1/jobs/{id}") for id in accepted))
    return told


# ---- 4 --------------------------------------------------------------------------------------------------------------


def large_jobs(_: Target) -> Form:
    fields = [("image", builders.flat_png(SIDE)), ("mask", builders.mask_png(SIDE)), ("class", b"tree")]
    return form([*fields, ("previews", b"1")])


async def send_large_jobs(target: Target, form: Form) -> Told:
    """Submits them all, waits while they are drawn, then cancels the rest."""
    told = Told()
    headers, body = form
    site = target.site
    answers = await asyncio.gather(
        *(site.ask("POST", "/v1/inpaint", body=body, headers=headers) for _ in range(target.many(JOBS)))
    )
    told.statuses += Counter(answer.outcome for answer in answers)
    left = {answer.json()["id"] for answer in answers if answer.outcome == "202"}
    until = time.monotonic() + 2 * target.seconds
    while left and time.monotonic() < until:
        await asyncio.sleep(5)
        for id in sorted(left):
            answer = await site.ask("GET", f"/v1/jobs/{id}")
            if answer.outcome == "200" and (state := answer.json()["status"]) not in ("queued", "running"):
                told.statuses[state] += 1
                left.remove(id)
    for id in left:
        told.statuses[f"cancelled {(await site.ask('DELETE', f'/v1/jobs/{id}')).outcome}"] += 1
    return told


# ---- 6 --------------------------------------------------------------------------------------------------------------


async def read_one_job(target: Target, _: None) -> Told:
    """Many clients read each event of one job; when it has ended, of the next."""
    told, site = Told(), target.site
    fields = {"n": 4, "steps": 64, "previews": 4}
    until = time.monotonic() + target.seconds
    read = 0

    async def reader(id: str) -> str:
        nonlocal read
        try:
            async with asyncio.timeout(PATIENCE):
                stream, writer = await site.connect()
                writer.write(site.head("GET", f"/v1/jobs/{id}/events", {"Accept": "text/event-stream"}))
                end = b""
                while piece := await stream.read(2**18):
                    read += len(piece)
                    end = (end + piece)[-LAST_BYTES:]
                writer.transport.abort()
                last = _EVENT.findall(end)
                return f"last event {last[-1].decode()}" if last else "no event"
        except TimeoutError:
            return "not read in time"
        except OSError:
            return CLOSED

    while time.monotonic() < until:
        answer = await site.ask("POST", "/v1/generate", body=json.dumps(fields).encode(), headers=JSON)
        told.statuses[answer.outcome] += 1
        if answer.outcome == "202":
            id = answer.json()["id"]
            told.statuses += Counter(await asyncio.gather(*(reader(id) for _ in range(target.many(READERS)))))
    told.statuses["MB read"] = read // 10**6
    return told


ATTACKS = (
    Attack(2, "files that take long to decode", slow_files, send_slow_files),
    Attack(3, "80 flat 4096² pictures at once", flat_pictures, send_flat_pictures),
    Attack(4, "48 inpaintings of 4096² pictures", large_jobs, send_large_jobs),
    # A key may have 200 requests open.
    Attack(6, "500 readers of one job", lambda _: None, read_one_job, keyless=True),
)
