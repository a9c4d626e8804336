"""What replicate-ruby 0.2.3 and replicate-rails 0.1.1 send and need, as observed; the gems themselves are not run.

`Authorization: Token`, `"webhook": null`, `{}` as the body of a cancel, every key present (Ruby raises NoMethodError
for an absent one), and an output that fits a string column.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import pytest

VERSION = "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3"
READ_BY_RUBY = ["id", "version", "input", "output", "status", "created_at", "started_at", "completed_at", "source"]
READ_BY_RUBY += ["urls", "error", "logs", "metrics", "webhook"]
STRING_COLUMN = 255


@pytest.fixture
def rails(local_replicate: str) -> Iterator[httpx.Client]:
    """Requests with the headers that the gem's Faraday sends."""
    headers = {"Authorization": "Token r8_local", "User-Agent": "Faraday v1.1.0", "Content-Type": "application/json"}
    with httpx.Client(base_url=f"{local_replicate}/v1", headers=headers, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def receiver() -> Iterator[tuple[str, Queue[Any]]]:
    """A development Rails: it blocks every host but localhost, and takes POST at the engine's mount point."""
    predictions: Queue[Any] = Queue()

    class Engine(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            blocked = self.headers["host"].split(":")[0] not in ("localhost", "127.0.0.1")
            self.send_response(403 if blocked else 204)
            self.end_headers()
            if not blocked:
                predictions.put(json.loads(body))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("localhost", 0), Engine) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://localhost:{server.server_address[1]}/replicate/webhook", predictions
        server.shutdown()
        thread.join()


def data_url(photo: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(photo.read_bytes()).decode()


def refetch(rails: httpx.Client, prediction: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while prediction["status"] in ("starting", "processing"):
        assert time.monotonic() < deadline, prediction
        time.sleep(0.05)
        prediction = rails.get(f"/predictions/{prediction['id']}").json()
    return prediction


def test_a_prediction_without_a_webhook_sends_null(rails: httpx.Client, tiny_photo: Path) -> None:
    request = {"version": VERSION, "input": {"img": data_url(tiny_photo), "scale": 2}, "webhook": None}
    made = rails.post("/predictions", json=request)
    assert made.status_code == 201
    ended = refetch(rails, made.json())
    assert ended["status"] == "succeeded"
    for prediction in (made.json(), ended):
        assert [key for key in READ_BY_RUBY if key not in prediction] == []


def test_the_webhook_brings_what_fits_string_columns(
    rails: httpx.Client, tiny_photo: Path, receiver: tuple[str, Queue[Any]]
) -> None:
    webhook, predictions = receiver
    request = {"version": VERSION, "input": {"img": data_url(tiny_photo)}, "webhook": webhook}
    made = rails.post("/predictions", json=request).json()
    while (arrived := predictions.get(timeout=30))["status"] != "succeeded":
        assert arrived["id"] == made["id"]
    assert isinstance(arrived["output"], str)
    assert len(arrived["output"]) <= STRING_COLUMN
    picture = httpx.get(arrived["output"], trust_env=False)  # as <img src> does: without a token
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")


def test_cancel_sends_an_empty_object(rails: httpx.Client, tiny_photo: Path) -> None:
    request = {"version": VERSION, "input": {"img": data_url(tiny_photo), "seconds": 30}, "webhook": None}
    made = rails.post("/predictions", json=request).json()
    while not made["logs"]:
        made = rails.get(f"/predictions/{made['id']}").json()
    assert rails.post(f"/predictions/{made['id']}/cancel", json={}).status_code == 200
    assert refetch(rails, made)["status"] == "canceled"


@pytest.mark.parametrize("query", ["?cursor", "?cursor=", ""])
def test_the_first_page_is_asked_for_with_an_empty_cursor(rails: httpx.Client, query: str) -> None:
    page = rails.get(f"/predictions{query}")
    assert page.status_code == 200
    assert page.json().keys() == {"previous", "next", "results"}


def test_the_model_has_its_latest_version(rails: httpx.Client) -> None:
    model = rails.get("/models/tencentarc/gfpgan").json()
    assert {"id", "created_at", "cog_version", "openapi_schema"} <= model["latest_version"].keys()
