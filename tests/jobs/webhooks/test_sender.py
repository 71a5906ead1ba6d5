"""Webhooks are signed, called at least once, and counted."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from service.auth.signing import Signer
from service.jobs import Job, Queue
from service.jobs.webhooks import sender as module
from service.jobs.webhooks.caller import CallFailed, WebhookCaller, resolve
from service.jobs.webhooks.hosts import WebhookHosts
from service.jobs.webhooks.queue import WebhookQueue
from service.jobs.webhooks.sender import WebhookSender
from service.jobs.webhooks.signature import shown_secret, webhook_headers
from service.metrics import WEBHOOK_OUTCOMES, Metrics
from tests.support.queue import CONFIG, new, stored_job
from tests.support.waiting import soon

# ---- signatures ----------------------------------------------------------------------------------------------------


def test_a_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's libraries."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = webhook_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert shown_secret(secret) == "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.mark.anyio
async def test_each_client_has_a_secret_of_its_own_that_lasts(redis: Redis) -> None:
    signers = [Signer(redis, CONFIG.prefix), Signer(redis, CONFIG.prefix)]
    ann, bob = [await signers[0].webhook_secret(name) for name in ("ann", "bob")]
    assert ann != bob
    assert (await signers[1].webhook_secret("ann"), len(ann)) == (ann, 32)
    assert await Signer(redis, CONFIG.prefix, "another secret").webhook_secret("ann") != ann


# ---- at least once -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def sending(redis: Redis, call: Callable[..., Any], metrics: Metrics) -> AsyncIterator[None]:
    class Caller(WebhookCaller):
        async def call(self, url: str, headers: dict[str, str], body: bytes) -> None:
            await call(url, headers, body)

    def body_of(job: Job) -> bytes:
        return f"{job.id} {job.state}".encode()

    sender = WebhookSender(
        WebhookQueue(redis, CONFIG),
        Queue(redis, CONFIG),
        Caller(WebhookHosts(()), resolve),
        metrics.webhooks,
        secret_of=Signer(redis, CONFIG.prefix).webhook_secret,
        body_of=body_of,
        pauses=(0.0, 0.0),
        poll_seconds=0.01,
    )
    sender.start()
    try:
        yield
    finally:
        await sender.close()


async def ended(redis: Redis, *ids: str) -> None:
    queue = Queue(redis, CONFIG)
    for job_id in ids:
        await queue.submit(new(job_id, webhook="https://hooks.test/"))
        await queue.cancel(job_id)


def count(metrics: Metrics) -> dict[str, float]:
    return {name: metrics.webhooks.labels(name)._value.get() for name in WEBHOOK_OUTCOMES}


@pytest.mark.anyio
async def test_a_webhook_is_repeated_and_given_up_in_the_end(redis: Redis) -> None:
    metrics, calls = Metrics(CollectorRegistry()), []

    async def call(*sent: Any) -> None:
        calls.append(sent)
        raise CallFailed("the receiver answered 500")

    await ended(redis, "a")
    async with sending(redis, call, metrics):
        assert await soon(lambda: count(metrics)["failed"])
    assert count(metrics) == {"delivered": 0, "retried": 2, "failed": 1}
    assert len(calls) == 3
    shown = (await stored_job(Queue(redis, CONFIG), "a")).webhook
    assert shown is not None
    assert (shown.state, shown.tries, shown.error) == ("failed", 3, "the receiver answered 500")


@pytest.mark.anyio
async def test_a_call_that_a_shutdown_cut_off_is_made_after_the_restart(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HOLD_SECONDS", 0.2)
    metrics, begun, delivered = Metrics(CollectorRegistry()), asyncio.Event(), []

    async def hang(*_: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def take(url: str, headers: dict[str, str], body: bytes) -> None:
        delivered.append((headers["webhook-id"], body))

    await ended(redis, "a")
    async with sending(redis, hang, metrics):
        await begun.wait()
    await ended(redis, "b")  # while no replica runs
    async with sending(redis, take, metrics), sending(redis, take, metrics):
        assert await soon(lambda: count(metrics)["delivered"] == 2)
        await asyncio.sleep(0.05)
    assert sorted(delivered) == [("msg_a", b"a canceled"), ("msg_b", b"b canceled")]


@pytest.mark.anyio
async def test_no_client_takes_all_calls_of_a_replica(redis: Redis) -> None:
    metrics, under_way = Metrics(CollectorRegistry()), []
    release = asyncio.Event()

    async def call(*sent: Any) -> None:
        under_way.append(sent)
        await release.wait()

    await ended(redis, *(f"j{index}" for index in range(10)))
    async with sending(redis, call, metrics):
        assert await soon(lambda: len(under_way) == module.CLIENT_CALLS)
        await asyncio.sleep(0.05)
        assert len(under_way) == module.CLIENT_CALLS
        release.set()
        assert await soon(lambda: count(metrics)["delivered"] == 10)
