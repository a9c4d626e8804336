"""Models, versions, deployments, collections and search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, select
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from harness.errors import Problem
from harness.replicate import catalogue, ids, views
from harness.replicate.catalogue import HARDWARE, not_found
from harness.replicate.http import (
    answer,
    base_url,
    cursor,
    parse_json,
    plain_text,
    read_body,
    resource,
    service_of,
)
from harness.replicate.tables import deployments, models, versions
from harness.replicate.validation import Invalid, is_http, refuse

_SIZE = 25  # of a page
_COLLECTION = {
    "name": "Local models",
    "slug": "local",
    "description": "The models that this local Replicate knows.",
}
_TEXTS = ("description", "github_url", "paper_url", "license_url")


def _paged(request: Request, rows: list[views.Json]) -> views.Json:
    """Return the part of a list that the request's cursor points at."""
    position = cursor(request) or "0"
    if not (position.isascii() and position.isdecimal() and len(position) < 10):
        raise Problem(400, "The cursor is not one of this server's.", title="Bad request")
    start = int(position)

    def link(at: int) -> str:
        query = {**request.query_params, "cursor": ids.encode_cursor(str(at))}
        return str(request.url.replace(scheme="").include_query_params(**query)).partition("?")[2]

    own = f"{base_url(request)}/v1{request.url.path}"
    previous = f"{own}?{link(max(0, start - _SIZE))}" if start else None
    following = f"{own}?{link(start + _SIZE)}" if start + _SIZE < len(rows) else None
    return views.page(rows[start : start + _SIZE], previous, following)


def _owner_name(request: Request) -> tuple[str, str]:
    return request.path_params["owner"], request.path_params["name"]


def _all_models(connection: Connection, base: str, sort_by: str, *, descending: bool) -> list[views.Json]:
    shown = [catalogue.model_view(connection, row, base) for row in connection.execute(select(models))]

    def age(model: views.Json) -> str:
        newest = model["latest_version"]
        by_version = sort_by == "latest_version_created_at"
        return str(newest["created_at"] if by_version and newest else "" if by_version else model["created_at"])

    return sorted(shown, key=age, reverse=descending)


async def list_models(request: Request) -> Response:
    """GET /models."""
    sort_by = request.query_params.get("sort_by", "latest_version_created_at")
    direction = request.query_params.get("sort_direction", "desc")
    if sort_by not in {"model_created_at", "latest_version_created_at"} or direction not in {"asc", "desc"}:
        raise Problem(400, "sort_by or sort_direction has an unknown value.", title="Bad request")
    base, descending = base_url(request), direction == "desc"
    rows = await service_of(request).database.read(lambda c: _all_models(c, base, sort_by, descending=descending))
    return answer(_paged(request, rows))


async def search_models(request: Request) -> Response:
    """QUERY /models: the body is the query."""
    return answer(_paged(request, await _matching(request, plain_text(await read_body(request)))))


async def _matching(request: Request, query: str) -> list[views.Json]:
    base = base_url(request)
    rows = await service_of(request).database.read(
        lambda c: _all_models(c, base, "latest_version_created_at", descending=True)
    )
    words = query.lower().split()
    return [row for row in rows if all(word in _searched(row) for word in words)]


def _searched(model: views.Json) -> str:
    return f"{model['owner']}/{model['name']} {model['description'] or ''} face restoration".lower()


async def create_model(request: Request) -> Response:
    """POST /models."""
    body = parse_json(await read_body(request))
    required, optional = ("owner", "name", "visibility", "hardware"), (*_TEXTS, "cover_image_url")
    values = _strings(body, required, optional)
    _one_of("visibility", values, ("public", "private"))
    _one_of("hardware", values, [sku for _, sku in HARDWARE])
    base = base_url(request)

    def change(connection: Connection) -> views.Json:
        return catalogue.model_view(connection, catalogue.create_model(connection, values), base)

    return answer(await service_of(request).database.write(change), 201)


async def get_model(request: Request) -> Response:
    """GET /models/{owner}/{name}."""
    base, wanted = base_url(request), _owner_name(request)
    return answer(
        await service_of(request).database.read(
            lambda c: catalogue.model_view(c, catalogue.model_row(c, *wanted), base)
        )
    )


async def update_model(request: Request) -> Response:
    """PATCH /models/{owner}/{name}."""
    values = _strings(parse_json(await read_body(request)), (), (*_TEXTS, "readme", "weights_url"))
    base, wanted = base_url(request), _owner_name(request)

    def change(connection: Connection) -> views.Json:
        return catalogue.model_view(connection, catalogue.update_model(connection, *wanted, values), base)

    return answer(await service_of(request).database.write(change))


async def delete_model(request: Request) -> Response:
    """DELETE /models/{owner}/{name}."""
    wanted = _owner_name(request)
    await service_of(request).database.write(lambda c: catalogue.delete_model(c, *wanted))
    return Response(status_code=204)


async def examples(request: Request) -> Response:
    """GET /models/{owner}/{name}/examples: none are kept here."""
    wanted = _owner_name(request)
    await service_of(request).database.read(lambda c: catalogue.model_row(c, *wanted))
    return answer(views.page([]))


async def readme(request: Request) -> Response:
    """GET /models/{owner}/{name}/readme."""
    wanted = _owner_name(request)
    row = await service_of(request).database.read(lambda c: catalogue.model_row(c, *wanted))
    if row.readme is None:
        raise not_found()
    return PlainTextResponse(row.readme)


async def list_versions(request: Request) -> Response:
    """GET /models/{owner}/{name}/versions: newest first."""
    owner, name = _owner_name(request)

    def read(connection: Connection) -> list[views.Json]:
        catalogue.model_row(connection, owner, name)
        own = select(versions).where(versions.c.model == f"{owner}/{name}").order_by(versions.c.created_at.desc())
        return [catalogue.version_view(row) for row in connection.execute(own)]

    return answer(_paged(request, await service_of(request).database.read(read)))


async def get_version(request: Request) -> Response:
    """GET /models/{owner}/{name}/versions/{version}."""
    (owner, name), version = _owner_name(request), request.path_params["version"]
    row = await service_of(request).database.read(lambda c: catalogue.version_row(c, f"{owner}/{name}", version))
    return answer(catalogue.version_view(row))


async def delete_version(request: Request) -> Response:
    """DELETE /models/{owner}/{name}/versions/{version}."""
    (owner, name), version, service = _owner_name(request), request.path_params["version"], service_of(request)
    await service.database.write(lambda c: catalogue.delete_version(c, owner, name, version, service.served))
    return Response(status_code=202)


def _shown_deployment(request: Request, row: Row[Any]) -> views.Json:
    return catalogue.deployment_view(row, service_of(request).settings.username)


async def list_deployments(request: Request) -> Response:
    """GET /deployments: newest first."""
    newest = select(deployments).order_by(deployments.c.created_at.desc())
    rows = await service_of(request).database.read(lambda c: c.execute(newest).all())
    return answer(_paged(request, [_shown_deployment(request, row) for row in rows]))


async def create_deployment(request: Request) -> Response:
    """POST /deployments."""
    body, service = parse_json(await read_body(request)), service_of(request)
    values = _strings(body, ("name", "model", "version", "hardware"), ())
    values |= _instances(body, required=True)
    _one_of("hardware", values, [sku for _, sku in HARDWARE])
    owner = service.settings.username
    row = await service.database.write(lambda c: catalogue.create_deployment(c, owner, values))
    return answer(_shown_deployment(request, row))


async def get_deployment(request: Request) -> Response:
    """GET /deployments/{owner}/{name}."""
    wanted = _owner_name(request)
    row = await service_of(request).database.read(lambda c: catalogue.deployment_row(c, *wanted))
    return answer(_shown_deployment(request, row))


async def update_deployment(request: Request) -> Response:
    """PATCH /deployments/{owner}/{name}: a new release."""
    body, wanted = parse_json(await read_body(request)), _owner_name(request)
    values = _strings(body, (), ("version", "hardware")) | _instances(body, required=False)
    if "hardware" in values:
        _one_of("hardware", values, [sku for _, sku in HARDWARE])
    row = await service_of(request).database.write(lambda c: catalogue.update_deployment(c, *wanted, values))
    return answer(_shown_deployment(request, row))


async def delete_deployment(request: Request) -> Response:
    """DELETE /deployments/{owner}/{name}: hosted, only when offline and long unused."""
    service, wanted = service_of(request), _owner_name(request)
    await service.database.write(lambda c: catalogue.delete_deployment(c, *wanted, strict=service.settings.strict))
    return Response(status_code=204)


def _strings(body: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Any]:
    """Return the named members of a body that are there; raises Problem 422 for missing or mistyped ones."""
    named = {name: body[name] for name in (*required, *optional) if body.get(name) is not None}
    wrong = [name for name, value in named.items() if not isinstance(value, str)]
    urls = [name for name, value in named.items() if name.endswith("_url") and name not in wrong and value]
    refuse(
        [
            *(Invalid("required", "", f"{name} is required") for name in required if name not in named),
            *(Invalid("invalid_type", name, "Invalid type. Expected: string") for name in wrong),
            *(Invalid("format", name, "Does not match format 'uri'") for name in urls if not is_http(named[name])),
        ],
        "Request validation failed",
    )
    return {name: value or None if name.endswith("_url") else value for name, value in named.items()}


def _instances(body: Mapping[str, Any], *, required: bool) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, most in (("min_instances", 5), ("max_instances", 20)):
        value = body.get(name)
        if value is None and not required:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            refuse([Invalid("number_lte", name, f"must be an integer from 0 to {most}")], "Request validation failed")
        found[name] = value  # type: ignore[assignment]  # refuse() has left otherwise
    return found


def _one_of(name: str, values: Mapping[str, Any], choices: tuple[str, ...] | list[str]) -> None:
    if values[name] not in choices:
        refuse([Invalid("enum", name, f"must be one of the following: {', '.join(choices)}")])


async def collections(request: Request) -> Response:
    """GET /collections: the one there is."""
    return answer(views.page([_COLLECTION]))


async def collection(request: Request) -> Response:
    """GET /collections/{slug}."""
    if request.path_params["slug"] != _COLLECTION["slug"]:
        raise not_found("The only collection here is local.")
    return answer({**_COLLECTION, "full_description": None, "models": await _matching(request, "")})


async def search(request: Request) -> Response:
    """GET /search."""
    query, limit = request.query_params.get("query"), request.query_params.get("limit", "20")
    if not query:
        raise Problem(400, 'Query parameter "query" is required')
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 3 and 1 <= int(limit) <= 50):
        raise Problem(400, 'Query parameter "limit" must be from 1 to 50')
    found = [
        {"model": model, "metadata": {"generated_description": None, "tags": [], "score": None}}
        for model in await _matching(request, query)
    ]
    named = [_COLLECTION] if query.lower() in _COLLECTION["name"].lower() else []
    shown = [{**one, "models": None} for one in named]
    return answer({"query": query, "models": found[: int(limit)], "collections": shown, "pages": []})


ROUTES: list[BaseRoute] = [
    resource("/models", get=list_models, post=create_model, query=search_models),
    resource("/models/{owner}/{name}", get=get_model, patch=update_model, delete=delete_model),
    resource("/models/{owner}/{name}/examples", get=examples),
    resource("/models/{owner}/{name}/readme", get=readme),
    resource("/models/{owner}/{name}/versions", get=list_versions),
    resource("/models/{owner}/{name}/versions/{version}", get=get_version, delete=delete_version),
    resource("/deployments", get=list_deployments, post=create_deployment),
    resource("/deployments/{owner}/{name}", get=get_deployment, patch=update_deployment, delete=delete_deployment),
    resource("/collections", get=collections),
    resource("/collections/{slug}", get=collection),
    resource("/search", get=search),
]
