"""What Replicate's API lacks and people at their own machine want: doing things again, and the webhook log.

GET  /local                              what is served, and how
POST /local/predictions/{id}/retry       a new prediction with the input of an old one -> 201
GET  /local/webhooks                     the newest messages with every attempt to deliver them
POST /local/webhooks/{id}/redeliver      deliver a message again, with the same webhook-id -> 202
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from harness.errors import Problem
from harness.replicate import ids, outbox
from harness.replicate.catalogue import not_found
from harness.replicate.http import answer, resource, service_of
from harness.replicate.predictions import Prediction
from harness.replicate.routes.predictions import view

_NEWEST = 100


async def about(request: Request) -> Response:
    """GET /local."""
    service = service_of(request)
    return answer(
        {"model": service.served.model, "versions": service.served.versions, "outputs": service.settings.outputs}
    )


async def retry(request: Request) -> Response:
    """POST /local/predictions/{id}/retry."""
    service = service_of(request)
    old = await service.lifecycle.get(request.path_params["id"])
    if old is None:
        raise not_found()
    if old.data_removed:
        raise Problem(422, "Its input has been removed, so it cannot run again.", title="Data removed")
    new_id = ids.new_id()
    fresh = Prediction(
        id=new_id,
        kind=old.kind,
        model=old.model,
        version=old.version,
        deployment=old.deployment,
        input=old.input,
        stream_path=old.stream_path[: -2 * len(new_id)] + new_id + ids.new_id(),
        base_url=old.base_url,
        created_at=ids.now(),
        webhook=old.webhook,
        webhook_events_filter=old.webhook_events_filter,
    )
    return answer(await view(request, await service.lifecycle.accept(fresh)), 201)


async def webhooks(request: Request) -> Response:
    """GET /local/webhooks."""
    return answer({"results": await service_of(request).database.read(lambda c: outbox.messages(c, _NEWEST))})


async def redeliver(request: Request) -> Response:
    """POST /local/webhooks/{id}/redeliver."""
    service = service_of(request)
    if not await service.database.write(lambda c: outbox.redeliver(c, request.path_params["id"])):
        raise not_found("`harness webhooks list` shows the messages there are.")
    service.outbox.wake()
    return answer({"id": request.path_params["id"], "state": "pending"}, 202)


ROUTES: list[BaseRoute] = [
    resource("/local", get=about),
    resource("/local/predictions/{id}/retry", post=retry),
    resource("/local/webhooks", get=webhooks),
    resource("/local/webhooks/{id}/redeliver", post=redeliver),
]
