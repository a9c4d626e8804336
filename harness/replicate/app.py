"""The HTTP application: Replicate's routes at /v1, /v1/v1 and /, and what holds for all of them."""

from __future__ import annotations

import errno
import logging

from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from harness.errors import Problem
from harness.replicate import http
from harness.replicate.routes import account, files, local, models, predictions, streams
from harness.replicate.service import Service

_log = logging.getLogger(__name__)
_PREFIX = "/v1"
_OPEN = ("/delivery/", "/files/stream-", "/streams/")  # capability URLs: knowing them is enough
_LOCAL_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"  # any other page must not act for its visitor
_METHODS = ("GET", "POST", "PATCH", "DELETE", "QUERY")


def create_app(service: Service) -> Starlette:
    """Return the application of one local Replicate, which must be running while requests are taken."""
    app = Starlette(
        routes=[
            *streams.ROUTES,  # before files: /files/stream-… is no file's id
            *predictions.ROUTES,
            *files.ROUTES,
            *models.ROUTES,
            *account.ROUTES,
            *local.ROUTES,
        ],
        middleware=[
            Middleware(CORSMiddleware, allow_origin_regex=_LOCAL_PAGES, allow_methods=_METHODS, allow_headers=["*"]),
            Middleware(AnyPrefix),
            Middleware(Guard),
        ],
        exception_handlers={
            Problem: _refused,
            HTTPException: _http_error,
            OperationalError: _store_failed,
            OSError: _disk_failed,
            Exception: _unexpected,
        },
    )
    app.state.service = service
    return app


class AnyPrefix:
    """Takes /v1 off the path, once or twice: clients disagree on whether their base URL contains it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on with the bare path."""
        if scope["type"] == "http":
            path = scope["path"]
            for _ in range(2):
                path = path.removeprefix(_PREFIX) if path.startswith(f"{_PREFIX}/") else path
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)


class Guard:
    """Refuses requests under foreign host names and without a token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may enter."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            _admit(Request(scope))
        except Problem as error:
            await http.problem(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _admit(request: Request) -> None:
    host = request.headers.get("host", "")
    if not http.trusted_host(host, http.service_of(request).settings):
        detail = "This Host is not one of this server's; start it with --public-url to use it."
        raise Problem(403, detail, title="Forbidden")
    path = request.url.path
    signed = path.startswith("/files/") and path.endswith("/download")
    if request.method != "OPTIONS" and not path.startswith(_OPEN) and not signed:
        http.token(request)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # as registered
    return http.problem(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer what no route takes; OPTIONS learns what would be taken."""
    assert isinstance(error, HTTPException)  # as registered
    headers = dict(error.headers or {})
    if request.method == "OPTIONS" and error.status_code == 405:
        return Response(status_code=204, headers=headers)
    details = {404: "The requested resource could not be found.", 405: f"Method {request.method} is not allowed here."}
    return http.problem(Problem(error.status_code, details.get(error.status_code, error.detail), headers=headers))


async def _store_failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, OperationalError)  # as registered
    _log.error("the store failed: %s", error.orig)
    if "disk is full" in str(error.orig):
        return http.problem(_disk_full())
    return http.problem(Problem(503, "The store cannot be used right now; see the server's log."))


async def _disk_failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)  # as registered
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return http.problem(_disk_full())
    return await _unexpected(request, error)


def _disk_full() -> Problem:
    return Problem(507, "The disk of the local Replicate is full; nothing was stored.", title="Insufficient storage")


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("unexpected failure of %s %s", request.method, request.url.path, exc_info=error)
    return http.problem(Problem(500, f"The local Replicate failed with {type(error).__name__}; its log says more."))
