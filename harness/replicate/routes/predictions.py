"""Predictions and trainings: create, list, get, cancel; their streams."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from harness.errors import Problem
from harness.replicate import catalogue, ids, intake, predictions, validation, views
from harness.replicate.catalogue import Target, not_found
from harness.replicate.http import (
    Handler,
    answer,
    base_url,
    cursor,
    parse_json,
    read_body,
    resource,
    service_of,
    token,
    user_agent,
)
from harness.replicate.intake import Submission
from harness.replicate.predictions import Page, Prediction


async def create(request: Request) -> Response:
    """POST /predictions."""
    body = await read_body(request)
    members = parse_json(body)
    validation.check_request(members, "version")
    target = service_of(request).resolver.version(members["version"])
    return await _accepted(request, body, members, target)


async def create_for_model(request: Request) -> Response:
    """POST /models/{owner}/{name}/predictions."""
    body = await read_body(request)
    members = parse_json(body)
    validation.check_request(members)
    service, model = service_of(request), "{owner}/{name}".format(**request.path_params)
    target = service.resolver.short_form(model, not_found(service.resolver.hint))
    return await _accepted(request, body, members, target)


async def create_for_deployment(request: Request) -> Response:
    """POST /deployments/{owner}/{name}/predictions."""
    body = await read_body(request)
    members = parse_json(body)
    validation.check_request(members)
    service, owner, name = service_of(request), request.path_params["owner"], request.path_params["name"]
    row = await service.database.write(lambda c: catalogue.use_deployment(c, owner, name))
    return await _accepted(request, body, members, service.resolver.deployment(row))


async def create_training(request: Request) -> Response:
    """POST /models/{owner}/{name}/versions/{version}/trainings."""
    body = await read_body(request)
    members = parse_json(body)
    validation.check_request(members, "destination")
    service, owner, name = service_of(request), request.path_params["owner"], request.path_params["name"]
    version = request.path_params["version"]
    await service.database.read(lambda c: catalogue.version_row(c, f"{owner}/{name}", version))
    await _check_destination(request, members["destination"])
    target = Target(f"{owner}/{name}", version)
    return await _accepted(request, body, members, target, destination=members["destination"])


async def _check_destination(request: Request, destination: str) -> None:
    owner, _, name = destination.partition("/")
    try:
        await service_of(request).database.read(lambda c: catalogue.model_row(c, owner, name))
    except Problem as missing:
        detail = "The specified training destination does not exist"
        hint = f'Create it first: POST /v1/models {{"owner": "{owner}", "name": "{name}", ...}}'
        raise Problem(404, detail, hint=hint) from missing


async def _accepted(
    request: Request, body: bytes, members: dict[str, Any], target: Target, destination: str | None = None
) -> Response:
    service, headers = service_of(request), request.headers
    limits = service.rate_limit.take()
    submission = Submission(
        target=target,
        body=members,
        size=len(body),
        base_url=base_url(request),
        user_agent=user_agent(request),
        fingerprint=intake.fingerprint(service.key, token(request), request.url.path, body),
        is_retry=headers.get("x-stainless-retry-count", "0") != "0",
        wait_s=intake.wait_seconds(headers.get("prefer"), headers.get("x-stainless-read-timeout"), service.settings),
        deadline_s=intake.deadline_seconds(headers.get("cancel-after")),
        destination=destination,
    )
    prediction, warnings = await service.intake.accept(submission)
    service.deadlines.watch(prediction)
    extra = {**limits, **_warning_header(warnings), "Location": _own_url(request, prediction)}
    return await _after_waiting(request, prediction, submission.wait_s, extra)


async def _after_waiting(
    request: Request, prediction: Prediction, wait_s: float | None, headers: dict[str, str]
) -> Response:
    """Answer a creation: 201 at once or when it has ended, 202 when the wait was too short."""
    if wait_s is None:
        return answer(await view(request, prediction), 201, headers)
    prediction = await service_of(request).lifecycle.ended(prediction, wait_s)
    headers["Preference-Applied"] = f"wait={wait_s:g}"
    shown = await view(request, prediction)
    if prediction.terminal:
        return answer(shown, 201, headers)
    # Clients take any status but "starting" for an end, so that is what a wait that was too short must say.
    return answer({**shown, "status": "starting", "started_at": None, "logs": ""}, 202, headers)


def _warning_header(warnings: list[str]) -> dict[str, str]:
    text = "; ".join(warnings).encode("ascii", "replace").decode()
    return {"x-local-warning": "".join(sign if sign.isprintable() else "?" for sign in text)} if text else {}


def _own_url(request: Request, prediction: Prediction) -> str:
    return f"{base_url(request)}/v1/{prediction.kind}s/{prediction.id}"


async def view(request: Request, prediction: Prediction) -> views.Json:
    """Return a prediction or training as this very client should see it."""
    service, base = service_of(request), base_url(request)
    shown = views.of(prediction, base)
    if service.outputs.applied(inline=prediction.inline_outputs, user_agent=user_agent(request)):
        shown["output"] = views.with_urls(await service.outputs.inline(prediction.output), base)
    return shown


def _getter(kind: str) -> Handler:
    async def get(request: Request) -> Response:
        prediction = await service_of(request).lifecycle.get(request.path_params["id"], kind)
        if prediction is None:
            raise not_found()
        return answer(await view(request, prediction))

    return get


def _canceller(kind: str) -> Handler:
    async def cancel(request: Request) -> Response:
        prediction = await service_of(request).cancel(request.path_params["id"], kind)
        if prediction is None:
            raise not_found()
        return answer(await view(request, prediction))

    return cancel


def _lister(kind: str) -> Handler:
    async def list_all(request: Request) -> Response:
        if request.query_params.get("source") == "web":
            return answer(views.page([]))  # nothing is made on a website here
        service, base = service_of(request), base_url(request)
        wanted = _wanted(request, service.settings.page)
        rows, more = await service.database.read(lambda c: predictions.page(c, kind, wanted))
        shown = [views.of(row, base) for row in rows]
        return answer(views.page(shown, *_links(request, wanted, rows, more)))

    return list_all


def _wanted(request: Request, size: int) -> Page:
    side, _, number = (cursor(request) or "").partition(" ")
    created = {name: _moment(request, name) for name in ("created_after", "created_before")}
    if side and not (side in {"before", "after"} and number.isascii() and number.isdecimal() and len(number) < 19):
        raise Problem(400, "The cursor is not one of this server's.", title="Bad request")
    return Page(size=size, **created, **({side: int(number)} if side else {}))  # type: ignore[arg-type]  # checked


def _moment(request: Request, name: str) -> str | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return ids.timestamp(ids.parse_timestamp(text))
    except (ValueError, OverflowError) as error:
        raise Problem(400, f"{name} must be an ISO 8601 date and time.", title="Bad request") from error


def _links(request: Request, wanted: Page, rows: list[Prediction], more: bool) -> tuple[str | None, str | None]:
    """Return the links to newer and to older rows."""
    if not rows:
        return None, None
    backwards = wanted.after is not None
    newer = more if backwards else wanted.before is not None
    older = True if backwards else more
    return (
        _link(request, f"after {rows[0].number}") if newer else None,
        _link(request, f"before {rows[-1].number}") if older else None,
    )


def _link(request: Request, position: str) -> str:
    query = {**request.query_params, "cursor": ids.encode_cursor(position)}
    return f"{base_url(request)}/v1{request.url.path}?{urlencode(query)}"


ROUTES: list[BaseRoute] = [
    resource("/predictions", get=_lister("prediction"), post=create),
    resource("/predictions/{id}", get=_getter("prediction")),
    resource("/predictions/{id}/cancel", post=_canceller("prediction")),
    resource("/models/{owner}/{name}/predictions", post=create_for_model),
    resource("/deployments/{owner}/{name}/predictions", post=create_for_deployment),
    resource("/models/{owner}/{name}/versions/{version}/trainings", post=create_training),
    resource("/trainings", get=_lister("training")),
    resource("/trainings/{id}", get=_getter("training")),
    resource("/trainings/{id}/cancel", post=_canceller("training")),
]
