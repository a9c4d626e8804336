"""Event streams of predictions: capability URLs, read without credentials."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from harness.replicate import views
from harness.replicate.catalogue import not_found
from harness.replicate.http import base_url, resource, service_of
from harness.replicate.predictions import Prediction
from harness.replicate.service import Service
from harness.replicate.tables import JsonValue

_ID = 26  # characters of a prediction id, before the key


async def stream(request: Request) -> Response:
    """GET urls.stream: logs, output, error and done events."""
    service, capability = service_of(request), request.path_params["capability"]
    prediction = await service.lifecycle.get(capability[:_ID])
    path = prediction.stream_path if prediction else ""
    if prediction is None or not hmac.compare_digest(path.encode(), f"/v1{request.url.path}".encode()):
        raise not_found()
    return EventSourceResponse(_events(service, prediction, base_url(request)), headers={"Cache-Control": "no-store"})


async def _events(service: Service, prediction: Prediction, base: str) -> AsyncIterator[ServerSentEvent]:
    sent, number = 0, 0
    with service.changes.watch(prediction.id) as states:
        prediction = await service.lifecycle.get(prediction.id) or prediction
        while True:
            for event, data in _news(prediction, sent, base):
                yield ServerSentEvent(data=data, event=event, id=f"{time.time_ns() // 1_000_000}:{number}")
                number += 1
            if prediction.terminal:
                return
            sent = len(prediction.logs)
            prediction = await states.get()


def _news(prediction: Prediction, sent: int, base: str) -> list[tuple[str, str]]:
    """Return the events of a state after one whose first `sent` characters of logs have been told."""
    news = [("logs", prediction.logs[sent:])] if len(prediction.logs) > sent else []
    if not prediction.terminal:
        return news
    if prediction.status == "succeeded":
        return [*news, *(("output", text) for text in _texts(prediction.output, base)), ("done", "{}")]
    if prediction.status == "failed":
        error = json.dumps({"detail": prediction.error})
        return [*news, ("error", error), ("done", json.dumps({"reason": "error"}))]
    return [*news, ("done", json.dumps({"reason": "canceled"}))]


def _texts(output: JsonValue, base: str) -> list[str]:
    shown = views.with_urls(output, base)
    parts = shown if isinstance(shown, list) else [shown]
    return [part if isinstance(part, str) else json.dumps(part) for part in parts]


ROUTES: list[BaseRoute] = [
    resource("/files/stream-{capability}", get=stream),
    resource("/streams/{capability}", get=stream),
]
