"""The webhooks of jobs that have ended: which to call now, and how a call went.

The verb that ends a job also makes its webhook due, so none is lost with a process. A webhook is called at least once:
a replica holds it for a while, and if it is not settled by then, it is due again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from redis.asyncio import Redis

from service.jobs.lua import load_script, text
from service.jobs.messages import QueueConfig, WebhookState


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookCall:
    """To make now. tries: calls of this webhook, with this one."""

    job_id: str
    client: str
    url: str
    tries: int


class WebhookQueue:
    """Fair between clients: none has more than its share of a replica's calls."""

    def __init__(self, redis: Redis, config: QueueConfig) -> None:
        self._keys = [config.prefix]
        self._claim = load_script(redis, "webhooks/claim", when_full=True)
        self._settle = load_script(redis, "webhooks/settle", when_full=True)

    async def claim(
        self, limit: int, *, hold_seconds: float, most: int, under_way: Mapping[str, int]
    ) -> tuple[list[WebhookCall], int]:
        """The webhooks to call now, and how many jobs expired before theirs was delivered.

        most: calls that one client may have under way here. under_way: those that it has.
        """
        arguments: list[Any] = [limit, round(hold_seconds * 1000), most]
        arguments += [value for client_and_calls in under_way.items() for value in client_and_calls]
        calls, gone = await self._claim(self._keys, arguments)
        made = [
            WebhookCall(job_id=text(job_id), client=text(client), url=text(url), tries=int(tries))
            for job_id, client, url, tries in calls
        ]
        return made, int(gone)

    async def settle(
        self, call: WebhookCall, state: WebhookState, *, wait_seconds: float = 0.0, error: str = ""
    ) -> WebhookState | Literal["settled"]:
        """pending: it is called again after `wait_seconds`; if its job expires before that, it has failed.

        Returns the state; `settled`: another replica delivered it or gave it up before.
        """
        arguments: list[Any] = [call.job_id, call.client, state, round(wait_seconds * 1000), error]
        return cast(WebhookState, text(await self._settle(self._keys, arguments)))
