"""What all routes share: reading requests as leniently as clients need it, and answering as Replicate does."""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from harness.errors import Problem
from harness.replicate import views
from harness.replicate.ids import decode_cursor
from harness.replicate.service import Service
from harness.replicate.settings import Settings

Handler = Callable[[Request], Awaitable[Response]]


def service_of(request: Request) -> Service:
    """Return the local Replicate that a request is for."""
    return cast(Service, request.app.state.service)


def resource(path: str, **handlers: Handler) -> Route:
    """Return one route with a handler for each method, named in lower case; GET answers HEAD too."""

    async def endpoint(request: Request) -> Response:
        method = "get" if request.method == "HEAD" else request.method.lower()
        return await handlers[method](request)

    return Route(path, endpoint, methods=[method.upper() for method in handlers])


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return compact JSON."""
    return Response(views.dumps(value), status, headers, media_type="application/json")


def problem(error: Problem) -> Response:
    """Return a refusal as Replicate writes it."""
    return Response(views.dumps(error.body), error.status, error.headers, media_type="application/problem+json")


async def read_body(request: Request) -> bytes:
    """Return the body; raises Problem 413 beyond the limit, without reading on."""
    limit = service_of(request).settings.max_body
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise Problem(413, f"Request bodies must be less than {limit:,} bytes; upload large files to /v1/files.")
    return bytes(body)


def parse_json(body: bytes) -> dict[str, Any]:
    """Return a body as a JSON object whatever its content type says; an empty one is an empty object."""
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "The request body is not valid JSON.", title="Bad request") from error
    if not isinstance(value, dict):
        raise Problem(400, "The request body must be a JSON object.", title="Bad request")
    return value


def plain_text(body: bytes) -> str:
    """Return a body as text, without the one pair of quotes that some clients put around it."""
    text = body.decode(errors="replace").strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def base_url(request: Request) -> str:
    """Return the origin under which this client reaches the server, without a slash at the end."""
    configured = service_of(request).settings.public_url
    return (configured or f"{request.url.scheme}://{request.headers.get('host', 'localhost')}").rstrip("/")


def user_agent(request: Request) -> str:
    """Return the client's own name for itself."""
    return request.headers.get("user-agent", "")


def cursor(request: Request) -> str | None:
    """Return what the request's cursor hides; None for none or an empty one, Problem 400 for a broken one."""
    text = request.query_params.get("cursor")
    if not text:
        return None
    try:
        return decode_cursor(text)
    except ValueError as error:
        raise Problem(400, "The cursor is not one of this server's.", title="Bad request") from error


def token(request: Request) -> str:
    """Return the request's token, checked; raises Problem 401. Clients write Bearer or Token before it."""
    settings = service_of(request).settings
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    given = given.strip()
    if scheme.lower() not in {"bearer", "token"} or not given:
        raise Problem(401, "You did not pass an authentication token", title="Unauthenticated")
    if not _acceptable(given, settings):
        raise Problem(401, "You did not pass a valid authentication token", title="Unauthenticated")
    return given


def _acceptable(given: str, settings: Settings) -> bool:
    if settings.token is not None:
        return hmac.compare_digest(given.encode(), settings.token.encode())
    return not settings.strict or given.startswith("r8_")


def trusted_host(host: str, settings: Settings) -> bool:
    """Whether a Host header may name this server.

    A server for this machine only is also reachable by the web pages its user visits, under names that their owners
    point here; such names have a dot and are not addresses.
    """
    name = urlsplit(f"//{host}").hostname or ""
    public = urlsplit(settings.public_url or "").hostname
    if not settings.loopback or "." not in name or name == public:
        return True
    if name.endswith((".localhost", ".internal", ".local")):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
