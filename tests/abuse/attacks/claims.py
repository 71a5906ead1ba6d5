"""Claims that an attacker or a fault can make untrue: forged recipes, a full Redis, lost connections, foreign pages."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from redis.asyncio import Redis

from service.server.embedded import running_in
from service.tasks.pictures import recipe
from service.tasks.pictures.images import encode
from tests.abuse.attacks.attack import Attack, Target, Told
from tests.abuse.web import Site
from tests.support.processes import REPOSITORY

SAME = 0
VERIFY_SECONDS = 60.0
WINDOWS = 3000
EVIL = "https://evil.example"


@asynccontextmanager
async def redis_of(data: Path) -> AsyncIterator[Redis]:
    address = running_in(data / "valkey")
    assert address is not None, "the embedded server does not answer"
    redis = Redis.from_url(address, decode_responses=True)
    try:
        yield redis
    finally:
        await redis.aclose()


# ---- 8 --------------------------------------------------------------------------------------------------------------


async def forge_recipes(target: Target, _: None) -> Told:
    told = Told()
    answer = await target.site.post("/v1/generate", {"steps": 8}, accept="image/png")
    genuine = json.loads(recipe.text_of(answer.body) or "")
    pixels = np.asarray(Image.open(io.BytesIO(answer.body)).convert("RGB"))
    noise = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)

    def forged(shown: np.ndarray, **fields: Any) -> bytes:
        text = json.dumps(genuine | {"pixels": recipe.digest(shown)} | fields)
        return encode(shown, "png", text={recipe.KEYWORD: text})

    windows = [[0, 0]] * target.many(WINDOWS)
    escape = "\x1b]0;owned\x07\x1b[2J"
    files = {
        "genuine": (answer.body, [SAME]),
        "noise of another size, composited": (forged(noise, composited=True), [1, 2, 3]),
        "noise of its size, composited": (forged(_like(pixels), composited=True), [1, 2, 3]),
        "noise as an inpainting": (forged(_like(pixels), composited=True, task="inpaint"), [1, 2, 3]),
        f"{len(windows)} windows": (forged(pixels, windows=windows, task="outpaint"), [1, 2, 3]),
        "control characters": (forged(pixels, class_name=escape), [0, 1, 2, 3]),
    }
    for name, (file, allowed) in files.items():
        status, said = await asyncio.to_thread(verify, target.data / "forged.png", file)
        told.expect(name, status, *allowed)
        if any(ord(one) < 32 and one not in "\n\t" for one in said):
            told.broken.append(f"{name}: control characters reach the terminal")
    return told


def _like(pixels: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, pixels.shape, dtype=np.uint8)


def verify(path: Path, file: bytes) -> tuple[int | str, str]:
    """The exit status of `arpg verify`, and what it printed."""
    path.write_bytes(file)
    command = [sys.executable, "-m", "service.cli", "verify", str(path)]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=VERIFY_SECONDS, cwd=REPOSITORY, env=os.environ
        )
    except subprocess.TimeoutExpired:
        return f"no end after {VERIFY_SECONDS:g} s", ""
    return ended.returncode, ended.stdout + ended.stderr


# ---- 10 -------------------------------------------------------------------------------------------------------------


async def fill_redis(target: Target, _: None) -> Told:
    """Redis reaches its maxmemory while a job runs: reads pass, readiness says so, the job waits and ends well."""
    told, site = Told(), target.site
    done = await site.post("/v1/generate", {"steps": 8})
    id = done.json()["id"]
    await ended(site, id)
    running = (await site.post("/v1/generate", {"steps": 256, "n": 4})).json()["id"]
    await asyncio.sleep(0.2)
    async with redis_of(target.data) as redis:
        await redis.config_set("maxmemory", "1mb")
        try:
            await asyncio.sleep(2.0)
            for path in (f"/v1/jobs/{id}", f"/v1/jobs/{id}/images/0", "/v1/models"):
                told.expect(f"GET {path.replace(id, 'ID')}", (await site.ask("GET", path)).outcome, "200")
            told.expect("POST", (await site.post("/v1/generate", {})).outcome, "503")
            told.expect("/readyz", (await site.ask("GET", "/readyz")).outcome, "503")
            await asyncio.sleep(8.0)
        finally:
            await redis.config_set("maxmemory", "0")
    told.expect("the running job", await ended(site, running), "succeeded")
    told.expect("/readyz later", (await site.ask("GET", "/readyz")).outcome, "200")
    return told


async def ended(site: Site, id: str, patience: float = 60.0) -> str:
    """How the job ended."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        answer = await site.ask("GET", f"/v1/jobs/{id}")
        if answer.outcome == "200" and (state := answer.json()["status"]) not in ("queued", "running"):
            return str(state)
        await asyncio.sleep(0.5)
    return "not ended"


# ---- 11 -------------------------------------------------------------------------------------------------------------


async def close_connections(target: Target, _: None) -> Told:
    """Redis closes idle connections, again and again. Some are used at once, some have learned of it."""
    told, site = Told(), target.site
    async with redis_of(target.data) as redis:
        for turn in range(target.many(20)):
            await redis.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.3 * (turn % 2))
            told.expect("/readyz", (await site.ask("GET", "/readyz")).outcome, "200")
            told.expect("/v1/models", (await site.ask("GET", "/v1/models")).outcome, "200")
            await asyncio.sleep(0.1)
    return told


# ---- 12 -------------------------------------------------------------------------------------------------------------


async def draw_from_another_page(target: Target, _: None) -> Told:
    """A page of another site sends requests with the user's cookie."""
    told, site = Told(), target.site
    opened = await site.ask("POST", "/v1/session")
    cookie = opened.headers["set-cookie"].partition(";")[0]
    body, json_headers = b'{"steps": 8}', {"Content-Type": "application/json", "Cookie": cookie}
    browser = Site(site.url)
    for name, origin, allowed in (
        ("own page", site.url, ("200", "202")),
        ("foreign page", EVIL, ("403",)),
        ("sandboxed page", "null", ("403",)),
    ):
        answer = await browser.ask("POST", "/v1/generate", body=body, headers=json_headers | {"Origin": origin})
        told.expect(name, answer.outcome, *allowed)
    return told


ATTACKS = (
    Attack(8, "forged recipes", lambda _: None, forge_recipes, bounded=False),
    Attack(10, "Redis at its maxmemory", lambda _: None, fill_redis, bounded=False),
    Attack(11, "Redis closes connections", lambda _: None, close_connections, bounded=False),
    Attack(12, "a foreign page with the user's cookie", lambda _: None, draw_from_another_page, bounded=False),
)
