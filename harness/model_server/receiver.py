"""Where a model server on this machine sends what it has: progress events, and output files too large for JSON.

Only for servers that can reach the harness's loopback address, so not for containers.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

MAX_FILE_BYTES: Final = 1 << 30
MAX_EVENT_BYTES: Final = 64 << 20


class Events:
    """The webhooks of one prediction: logs as they come, and the final object."""

    def __init__(self, url: str) -> None:
        self.request: Final = {"webhook": url, "webhook_events_filter": ["logs", "completed"]}
        self.logs = ""
        self._completed = asyncio.Event()
        self._news = asyncio.Event()

    def take(self, event: dict[str, Any]) -> None:
        """Note one webhook's body."""
        self.logs = event.get("logs") or self.logs
        self._news.set()
        if event.get("status") not in ("starting", "processing"):
            self._completed.set()

    async def news(self) -> str:
        """Wait for the next event; returns the logs so far."""
        await self._news.wait()
        self._news.clear()
        return self.logs

    async def completed(self, timeout_s: float) -> str:
        """Wait for the last event, but not for long; returns the logs so far."""
        with contextlib.suppress(TimeoutError):  # the answer itself is there; only the end of its logs would miss
            await asyncio.wait_for(self._completed.wait(), timeout_s)
        return self.logs


class Receiver:
    """A small HTTP server on 127.0.0.1; use as an async context manager.

    Files are streamed into `directory`/<prediction id>/ under generated names, only while that prediction is followed;
    they belong to the caller. A random path keeps other programs on this machine out.
    """

    def __init__(self, directory: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self.directory: Final = directory
        self._max_file_bytes = max_file_bytes
        self._followed: dict[str, Events] = {}
        self._secret = secrets.token_urlsafe(24)
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._base = ""

    @property
    def upload_url(self) -> str:
        """What to start Cog with: `--upload-url`."""
        return f"{self._base}/files/"

    async def __aenter__(self) -> Self:
        routes = [
            Route(f"/{self._secret}/files/{{name:path}}", self._take_file, methods=["PUT"]),
            Route(f"/{self._secret}/events/{{prediction_id}}", self._take_event, methods=["POST"]),
        ]
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))  # bound here, so that a request never comes before the server listens
            listener.listen()
            self._base = f"http://127.0.0.1:{listener.getsockname()[1]}/{self._secret}"
            config = uvicorn.Config(Starlette(routes=routes), log_config=None, access_log=False, lifespan="off")
            self._server = _Quiet(config)
            self._serving = asyncio.create_task(self._server.serve(sockets=[listener.dup()]))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving

    @contextmanager
    def following(self, prediction_id: str) -> Iterator[Events]:
        """Accept the events and files of a prediction while the block runs."""
        events = Events(f"{self._base}/events/{prediction_id}")
        self._followed[prediction_id] = events
        try:
            yield events
        finally:
            del self._followed[prediction_id]

    async def _take_event(self, request: Request) -> Response:
        events = self._followed.get(request.path_params["prediction_id"])
        if events is None:
            return Response(status_code=404)
        if int(request.headers.get("content-length", MAX_EVENT_BYTES + 1)) > MAX_EVENT_BYTES:
            return Response(status_code=413)
        events.take(await request.json())
        return Response()

    async def _take_file(self, request: Request) -> Response:
        prediction_id = request.headers.get("x-prediction-id", "")
        if prediction_id not in self._followed:
            return Response(status_code=404)
        path = self.directory / prediction_id / f"{secrets.token_hex(8)}{_suffix(request.path_params['name'])}"
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        if not await self._stream(request, path):
            path.unlink(missing_ok=True)
            return Response(status_code=413)
        return Response(status_code=201, headers={"location": path.resolve().as_uri()})

    async def _stream(self, request: Request, path: Path) -> bool:
        """Write the body to `path`; returns False as soon as it is over the limit."""
        size = 0
        with path.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > self._max_file_bytes:
                    return False
                file.write(chunk)
        return True


class _Quiet(uvicorn.Server):
    """A server inside somebody else's program, whose signals are not its business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


def _suffix(name: str) -> str:
    """Return the name's extension when it is a plain one: it decides the type, nothing else of the name is used."""
    suffix = Path(name).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""
