"""Nothing accepted is lost: SIGKILL the local Replicate, the model server, or both, at random moments under load.

The moments come from a seed, so a failure can be looked at again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import skimage.data
from PIL import Image
from replicate_processes import InstantModelServer, LocalReplicate, free_port, until

from harness.model_server.process import ServerProcess
from restoration.settings import REPOSITORY

KILLS: Final = 30
IN_FLIGHT: Final = 50
NEW: Final = 12  # before each kill, about as many as were finished since the last
SEED: Final = 20261121
VERSION: Final = "9283608cc6b7be6b65a8e44983db012355fde4132009bf99d976b2f0896856a3"
PIXEL: Final = "data:image/png;base64,iVBORw0KGgo="
TERMINAL: Final = ("succeeded", "failed", "canceled", "aborted")


class Receiver(ThreadingHTTPServer):
    """Counts the terminal webhooks of each prediction and keeps their ids."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ids: dict[str, set[str]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        prediction = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert prediction["status"] in TERMINAL
        self.server.ids.setdefault(prediction["id"], set()).add(self.headers["webhook-id"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Load:
    """Creates predictions, eight at a time; remembers those that were answered with 201."""

    def __init__(self, url: str, webhook: str) -> None:
        self.accepted: list[str] = []
        self.input: dict[str, object] = {"img": PIXEL}
        self._webhook = webhook
        limits = httpx.Limits(max_connections=8)
        headers = {"Authorization": "Bearer r8_local"}
        self._http = httpx.Client(base_url=f"{url}/v1", headers=headers, limits=limits, trust_env=False, timeout=10)
        self._pool = ThreadPoolExecutor(8)

    def create(self, _: int = 0) -> None:
        body = {"version": VERSION, "input": self.input, "webhook": self._webhook}
        try:
            answer = self._http.post("/predictions", json={**body, "webhook_events_filter": ["completed"]})
        except httpx.TransportError:
            return  # killed before it could answer: nothing was promised
        assert answer.status_code == 201, answer.text
        self.accepted.append(answer.json()["id"])

    def start(self, count: int) -> None:
        """Begin creating `count` predictions in the background."""
        for number in range(count):
            self._pool.submit(self.create, number)

    def settle(self) -> None:
        """Wait for the requests that were begun."""
        self._pool.shutdown()
        self._pool = ThreadPoolExecutor(8)

    def get(self, prediction_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._http.get(f"/predictions/{prediction_id}").raise_for_status().json()
        return answer

    def close(self) -> None:
        self._pool.shutdown()
        self._http.close()


def test_everything_accepted_ends_once_and_is_announced(tmp_path: Path, receiver: Receiver) -> None:
    moments = random.Random(SEED)
    starts = tmp_path / "starts"
    with (
        InstantModelServer(delay_s=0.03, starts=starts) as model,
        LocalReplicate(tmp_path / "data", model.url) as local,
    ):
        with closing(Load(local.url, receiver.url)) as load:
            for kill in range(KILLS):
                load.start(NEW if kill else IN_FLIGHT)
                time.sleep(moments.uniform(0, 0.35))  # the moment of the kill, not a wait for anything
                match moments.choice(["local", "model", "both", "starting"]):
                    case "local":
                        local.kill()
                    case "model":
                        model.kill()
                    case "both":
                        local.kill()
                        model.kill()
                    case "starting":
                        local.kill()
                        local.spawn()
                        time.sleep(moments.uniform(0, 0.8))
                        local.kill()
                model.spawn()
                local.spawn()
                load.settle()
                model.start()
                local.start()
            ended = drained(load)
            check_ends(ended)
            until(lambda: receiver.ids.keys() >= set(load.accepted), 90)
            check_outputs(ended)
        local.stop()
    assert len(load.accepted) > KILLS
    assert all(len(ids) == 1 for ids in receiver.ids.values())
    check_starts(Counter(starts.read_text().split()))
    check_store(tmp_path / "data")


def test_the_real_model_and_the_api_killed_in_the_middle(tmp_path: Path, receiver: Receiver, standins: Path) -> None:
    """The real predictor on stand-in weights, killed while it restores a face."""
    environment = {"RESTORATION_WEIGHTS": str(standins), "RESTORATION_DETECTOR": "recorded"}
    model = ServerProcess(REPOSITORY, tmp_path / "model.log", port=free_port(), environment=environment)
    asyncio.run(model.start())
    try:
        with LocalReplicate(tmp_path / "data", model.url) as local, closing(Load(local.url, receiver.url)) as load:
            load.input = {"img": astronaut(), "scale": 1, "background": "lanczos"}
            load.start(4)
            load.settle()
            until(lambda: load.get(load.accepted[0])["status"] == "processing", 120)
            assert model.pid is not None
            os.killpg(model.pid, signal.SIGKILL)
            local.kill()
            asyncio.run(model.start())
            local.start()
            ended = drained(load)
            assert [prediction["status"] for prediction in ended] == ["succeeded"] * 4
            assert [prediction["metrics"]["faces_restored"] for prediction in ended] == [1] * 4
            until(lambda: receiver.ids.keys() >= set(load.accepted))
            check_outputs(ended, 4)
    finally:
        asyncio.run(model.stop())
    check_store(tmp_path / "data")


def astronaut() -> str:
    """A photo whose face is on record, as a data URL."""
    file = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def drained(load: Load) -> list[dict[str, Any]]:
    """Every accepted prediction, once all have ended."""
    ended: dict[str, dict[str, Any]] = {}

    def all_ended() -> bool:
        for prediction_id in load.accepted:
            if prediction_id not in ended:
                prediction = load.get(prediction_id)
                if prediction["status"] not in TERMINAL:
                    return False
                ended[prediction_id] = prediction
        return True

    until(all_ended, 120)
    return list(ended.values())


def check_ends(ended: list[dict[str, Any]]) -> None:
    """All succeed, but for one under which two model servers in a row were killed."""
    for prediction in ended:
        lost_twice = prediction["status"] == "failed" and "lost twice" in prediction["error"]
        assert prediction["status"] == "succeeded" or lost_twice, prediction
    assert sum(prediction["status"] == "failed" for prediction in ended) <= 2


def check_outputs(ended: list[dict[str, Any]], count: int = 20) -> None:
    succeeded = [prediction for prediction in ended if prediction["status"] == "succeeded"]
    for prediction in random.Random(SEED).sample(succeeded, count):
        answer = httpx.get(prediction["output"], trust_env=False)
        assert answer.content.startswith(b"\x89PNG")
        assert answer.content.endswith(b"IEND\xaeB`\x82")


def check_starts(starts: Counter[str]) -> None:
    """Each kill can cost the one slot's prediction a second start, and no other."""
    assert sum(starts.values()) - len(starts) <= KILLS * 2  # "starting" kills twice
    assert max(starts.values()) <= 4


def check_store(data: Path) -> None:
    [store] = data.glob("*.sqlite")
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for blob in (path for path in (data / "blobs").rglob("*") if path.is_file()):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
