"""A local Replicate inside the test's own process, before models that a test plays itself."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import uvicorn
from replicate_processes import until

from harness.model_server.answers import Outcome
from harness.replicate.app import create_app
from harness.replicate.service import Service
from harness.replicate.settings import GFPGAN_VERSIONS, Settings
from harness.replicate.tables import JsonValue

VERSION: Final = GFPGAN_VERSIONS[1]
PNG: Final = b"\x89PNG\r\n\x1a\n" + b"not really a picture"
PNG_URL: Final = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
DOCUMENT: Final[dict[str, Any]] = {
    "openapi": "3.0.2",
    "components": {
        "schemas": {
            "Input": {
                "type": "object",
                "required": ["img"],
                "properties": {
                    "img": {"type": "string", "format": "uri", "x-order": 0},
                    "version": {"allOf": [{"$ref": "#/components/schemas/version"}], "default": "v1.4", "x-order": 1},
                    "scale": {"type": "number", "minimum": 1, "maximum": 4, "default": 2, "x-order": 2},
                    "seed": {"type": "integer", "nullable": True, "default": None, "x-order": 3},
                },
            },
            "version": {"type": "string", "enum": ["v1.2", "v1.3", "v1.4", "RestoreFormer"]},
            "Output": {"type": "string", "format": "uri"},
        }
    },
}


@dataclass
class Model:
    """A model server played by a test. It answers with its photo at once, or holds each prediction until released.

    losses: errors to raise, one for each of the next runs. Everything that ran is in `ran`, what it got in `inputs`.
    """

    holds: bool = False
    losses: list[Exception] = field(default_factory=list)
    output: Any = PNG_URL
    ran: list[str] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    async def wait_ready(self, timeout_s: float) -> object:
        return None

    async def schema(self) -> dict[str, Any]:
        return DOCUMENT

    async def run(
        self,
        prediction_id: str,
        input: dict[str, Any],
        *,
        on_logs: Callable[[str], None] | None = None,
        timeout_s: float = 600.0,
    ) -> Outcome:
        self.ran.append(prediction_id)
        self.inputs.append(input)
        if self.losses:
            raise self.losses.pop(0)
        if on_logs:
            on_logs("looking\n")
        try:
            while self.holds and not self.released.is_set():  # noqa: ASYNC110 - set in another thread
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.stopped.append(prediction_id)
            raise
        return Outcome(prediction_id, "succeeded", self.output, logs="looking\nfound\n", metrics={"predict_time": 0.5})


class Replicate(httpx.Client):
    """A client of a running local Replicate."""

    service: Service

    def create(self, headers: dict[str, str] | None = None, **body: JsonValue) -> httpx.Response:
        """POST a prediction of the photo, with `body`'s members over the usual ones."""
        usual = {"version": VERSION, "input": {"img": PNG_URL}}
        return self.post("/v1/predictions", json=usual | body, headers=headers)

    def prediction(self, prediction_id: str) -> JsonValue:
        """A prediction as it is now."""
        return self.get(f"/v1/predictions/{prediction_id}").json()

    def ended(self, prediction_id: str) -> JsonValue:
        """A prediction once it is terminal."""
        until(lambda: self.prediction(prediction_id)["completed_at"], 20)
        return self.prediction(prediction_id)


async def _serve(service: Service, server: uvicorn.Server) -> None:
    async with service.running():
        await server.serve()


@contextmanager
def replicate(data: Path, *models: Model, **settings: JsonValue) -> Iterator[Replicate]:
    """Run a local Replicate in a thread for the block."""
    service = Service(Settings(data=data, **settings), models or [Model()], DOCUMENT)
    config = uvicorn.Config(create_app(service), port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=asyncio.run, args=(_serve(service, server),))
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started
        port = server.servers[0].sockets[0].getsockname()[1]
        headers = {"Authorization": "Bearer r8_local"}
        with Replicate(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=30) as client:
            client.service = service
            yield client
    finally:
        server.should_exit = True
        thread.join()
