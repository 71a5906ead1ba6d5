"""What a client needs to check the webhooks that it gets."""

from __future__ import annotations

from fastapi import APIRouter, Response

from service.api.dependencies import ClientDep, ServicesDep
from service.api.problems import described
from service.api.schemas import WebhookSecret
from service.errors import Problem
from service.jobs.webhooks.signature import shown_secret

router = APIRouter(prefix="/v1/webhooks", tags=["jobs"], responses=described(404))


@router.get("/secret", name="get_webhook_secret")
async def webhook_secret(response: Response, services: ServicesDep, client: ClientDep) -> WebhookSecret:
    """Show the secret that signs this client's webhooks.

    It changes only with the server's signing key (`ARPG_SIGNING_KEY`).
    """
    if not services.webhook_hosts:
        detail = "this server calls no webhooks; its operator may set ARPG_WEBHOOK_HOSTS"
        raise Problem(404, "webhooks_off", detail)
    response.headers["Cache-Control"] = "no-store"
    return WebhookSecret(secret=shown_secret(await services.signer.webhook_secret(client.name)))
