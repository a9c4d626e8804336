"""`harness serve`: model servers, the application and uvicorn, from start to orderly end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from harness.errors import UsageError
from harness.replicate import tls
from harness.replicate.app import create_app
from harness.replicate.model_servers import model_document, model_servers, received
from harness.replicate.service import Service
from harness.replicate.settings import Settings
from harness.service import Plan


async def serve(settings: Settings, behind: Plan | Sequence[str], on_ready: Callable[[Service], None]) -> None:
    """Serve what is `behind` (see `model_servers`) until SIGINT or SIGTERM; calls `on_ready` once requests are taken.

    Raises:
        HarnessError: the model cannot be set up, the store is in use, or the port is.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    async with model_servers(behind, settings.data) as servers:
        document = await model_document(servers, settings.data)
        service = Service(settings, servers, document, received(settings.data))
        await _serve(service, on_ready)


async def _serve(service: Service, on_ready: Callable[[Service], None]) -> None:
    settings = service.settings
    shown = tls.certificates(settings.tls, settings.host) if settings.outputs == "https" else None
    config = uvicorn.Config(
        create_app(service),
        host=settings.host,
        port=settings.port,
        log_config=None,
        lifespan="off",  # the service runs around it, so that its errors are ours
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than clients keep idle connections: 5 s, as they do, is a race that POSTs lose
        timeout_graceful_shutdown=int(settings.stop_s),
        ssl_certfile=shown.server if shown else None,
        ssl_keyfile=shown.key if shown else None,
    )
    server = _Server(config, lambda: on_ready(service))
    with _signals(server):
        async with service.running():
            await _listen(server, settings)


async def _listen(server: uvicorn.Server, settings: Settings) -> None:
    try:
        await server.serve()
    except SystemExit as error:  # uvicorn's way to say that it cannot listen
        message = f"Port {settings.port} of {settings.host} cannot be listened on: choose another --port."
        raise UsageError(message) from error


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers, which end the process before the model servers are stopped."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `_signals`."""
        yield


@contextmanager
def _signals(server: uvicorn.Server) -> Iterator[None]:
    """Stop on SIGINT and SIGTERM; at the second one without waiting for open requests."""

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
