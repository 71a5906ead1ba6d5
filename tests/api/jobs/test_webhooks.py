"""A job that ends calls its webhook: the whole way from the header to the receiver."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

from service.api.presenter import webhook_body
from service.jobs import Job, Queue
from service.metrics import WEBHOOK_OUTCOMES
from service.settings import Settings
from tests.api.jobs.receiver import receiving
from tests.support.api import running_api
from tests.support.waiting import eventually


def test_a_job_that_ends_calls_its_webhook_with_a_signed_message(redis_socket: Path) -> None:
    with receiving(500, 200) as receiver:
        settings = Settings(
            redis_url=f"unix://{redis_socket}", namespace="hooked", webhook_hosts=receiver.url, _env_file=None
        )
        with running_api(settings) as api:
            api.show_card()
            headers = {"X-Webhook-URL": f"{receiver.url}/done?token=a"}
            job = api.client.post("/v1/generate", json={"n": 2}, headers=headers).json()
            api.draw(api.claim())
            assert eventually(lambda: len(receiver.calls) == 1)
            url = job["urls"]["self"]
            assert eventually(lambda: api.client.get(url).json()["webhook"]["error"] == "the receiver answered 500")
            prefix = api.settings.queue_config.prefix

            async def hurry(queue: Queue, _: Any, __: Any) -> None:
                """The pause before the second try is over."""
                await queue.redis.zadd(f"{prefix}webhooks_of:local", {job["id"]: 1})
                await queue.redis.zadd(f"{prefix}webhooks", {"local": 1})

            api.queue(hurry)
            assert eventually(lambda: api.client.get(url).json()["webhook"]["state"] == "delivered")
            secret = api.client.get("/v1/webhooks/secret").json()["secret"]
            finished = api.client.get(url).json()
            counts = {name: api.metrics.webhooks.labels(name)._value.get() for name in WEBHOOK_OUTCOMES}
    (first, body), (second, again) = receiver.calls
    assert counts == {"delivered": 1, "retried": 1, "failed": 0}
    assert finished.pop("webhook")["tries"] == 2
    told = json.loads(body)
    assert (told["type"], told["data"], body) == ("job.succeeded", finished, again)
    assert first["webhook-id"] == second["webhook-id"] == f"msg_{job['id']}"
    key = base64.b64decode(secret.removeprefix("whsec_"))
    for sent in (first, second):
        signed = f"{sent['webhook-id']}.{sent['webhook-timestamp']}.".encode() + body
        signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        assert sent["webhook-signature"] == f"v1,{signature}"
        assert abs(int(sent["webhook-timestamp"]) - time.time()) < 300
        assert sent["content-type"] == "application/json"


def test_a_job_of_another_version_is_told_by_its_status() -> None:
    job = Job(
        id="a", model="m", client="x", state="canceled", attempt=0, cost=1, spec="{}", created_at=1.0, finished_at=2.0
    )
    told = {"type": "job.canceled", "timestamp": "1970-01-01T00:00:02Z", "data": {"id": "a", "status": "canceled"}}
    assert json.loads(webhook_body(job, "")) == told
