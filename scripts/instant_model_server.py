"""A model server that answers at once: Cog's HTTP API with a model behind it that does nothing.

It measures what the local Replicate itself costs, and is quick enough to be killed under hundreds of predictions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
INPUTS = {
    "img": {"type": "string", "format": "uri", "title": "Img", "x-order": 0},
    "version": {"type": "string", "title": "Version", "default": "v1.4", "x-order": 1},
    "scale": {"type": "number", "title": "Scale", "default": 2, "x-order": 2},
}
SCHEMA = {
    "openapi": "3.0.2",
    "info": {"title": "Cog", "version": "0.1.0"},
    "paths": {},
    "components": {
        "schemas": {
            "Input": {"title": "Input", "type": "object", "required": ["img"], "properties": INPUTS},
            "Output": {"title": "Output", "type": "string", "format": "uri"},
        }
    },
}


class InstantModel:
    """Answers every prediction with one pixel after `delay_s`; notes each start in `starts`, if given."""

    def __init__(self, delay_s: float, starts: Path | None) -> None:
        self._delay_s = delay_s
        self._starts = starts
        self._canceled: dict[str, asyncio.Event] = {}

    async def predict(self, request: Request) -> Response:
        """POST /predictions, held open until the end."""
        body = await request.json()
        prediction_id, input = body["id"], body["input"]
        if self._starts is not None:
            with self._starts.open("a") as file:
                file.write(f"{prediction_id}\n")
        canceled = self._canceled[prediction_id] = asyncio.Event()
        try:
            status = await self._take(canceled)
        finally:
            del self._canceled[prediction_id]
        output = PIXEL if status == "succeeded" else None
        answer = {"id": prediction_id, "input": input, "status": status, "output": output, "logs": "", "error": None}
        return JSONResponse({**answer, "metrics": {"predict_time": self._delay_s}})

    async def _take(self, canceled: asyncio.Event) -> str:
        if not self._delay_s:
            return "succeeded"
        try:
            await asyncio.wait_for(canceled.wait(), self._delay_s)
        except TimeoutError:
            return "succeeded"
        return "canceled"

    async def cancel(self, request: Request) -> Response:
        """POST /predictions/{id}/cancel."""
        running = self._canceled.get(request.path_params["id"])
        if running is None:
            return JSONResponse({}, 404)
        running.set()
        return JSONResponse({})

    async def follow(self, request: Request) -> Response:
        """PUT /predictions/{id}: the state of a running prediction."""
        if request.path_params["id"] in self._canceled:
            return JSONResponse({"id": request.path_params["id"], "status": "processing", "logs": ""}, 202)
        return JSONResponse({"detail": [{"loc": ["body", "input", "img"], "msg": "Field required"}]}, 422)

    async def health(self, request: Request) -> Response:
        """GET /health-check."""
        return JSONResponse({"status": "READY", "setup": {"status": "succeeded", "logs": ""}, "version": {}})

    async def schema(self, request: Request) -> Response:
        """GET /openapi.json."""
        return Response(json.dumps(SCHEMA), media_type="application/json")

    def app(self) -> Starlette:
        """The HTTP application."""
        routes: list[Any] = [
            Route("/predictions", self.predict, methods=["POST"]),
            Route("/predictions/{id}", self.follow, methods=["PUT"]),
            Route("/predictions/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/health-check", self.health),
            Route("/openapi.json", self.schema),
        ]
        return Starlette(routes=routes)


def main() -> None:
    """Serve on 127.0.0.1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="how long a prediction takes")
    parser.add_argument("--starts", type=Path, help="file that the id of each started prediction is appended to")
    chosen = parser.parse_args()
    model = InstantModel(chosen.delay, chosen.starts)
    uvicorn.run(model.app(), host="127.0.0.1", port=chosen.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
