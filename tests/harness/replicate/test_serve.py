"""`harness serve` as a person runs it: it starts the model, takes requests, survives, and is asked by the commands."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
from replicate_in_thread import PNG, PNG_URL, VERSION
from replicate_processes import free_port, until
from toy_models import make_toy

from harness.errors import UsageError
from harness.replicate.cli import per_minute, seconds

ROOT = Path(__file__).parents[3]


class Served:
    """`harness serve` in the directory of a toy model, as a process."""

    def __init__(self, root: Path, *options: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        port = self.url.rpartition(":")[2]
        self.log = root / "serve.log"
        command = [sys.executable, "-m", "harness", "serve", "--port", port, "--runtime", "process", *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TOY_MARKS": ""}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        self.http = httpx.Client(base_url=self.url, headers={"Authorization": "Bearer x"}, trust_env=False, timeout=30)
        until(self._answers, 60)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.http.get("/v1/account").is_success
        except httpx.TransportError:
            return False

    def create(self, **members: object) -> httpx.Response:
        body = {"version": VERSION, "input": {"img": PNG_URL}} | members
        return self.http.post("/v1/predictions", json=body, headers={"Prefer": "wait"})

    def begun(self, url: str) -> bool:
        return bool(self.http.get(url).json()["status"] != "starting")

    def end(self, number: int) -> int:
        self.http.close()
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy("echo", tmp_path_factory.mktemp("toy")).process.root


@pytest.fixture(scope="module")
def served(toy: Path) -> Iterator[Served]:
    server = Served(toy)
    yield server
    server.end(signal.SIGKILL)


def harness(served: Served, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HARNESS_REPLICATE_URL": served.url, "COLUMNS": "200"}
    command = [sys.executable, "-m", "harness", *words]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_it_says_how_to_point_each_client_at_it(served: Served) -> None:
    banner = served.log.read_text()
    assert f"REPLICATE_BASE_URL={served.url} " in banner
    assert f'baseUrl: "{served.url}/v1"' in banner
    assert f'c.api_endpoint_url = "{served.url}/v1"' in banner


def test_a_real_model_server_runs_a_prediction(served: Served) -> None:
    made = served.create(input={"img": PNG_URL, "seconds": 0.3}).json()
    assert made["status"] == "succeeded", made
    assert "step 0" in made["logs"]
    assert made["metrics"]["faces_found"] == 1
    assert httpx.get(made["output"], trust_env=False).content == PNG


def test_what_the_model_raises_is_the_predictions_error(served: Served) -> None:
    made = served.create(input={"img": PNG_URL, "act": "raise"}).json()
    assert (made["status"], "asked to fail" in made["error"]) == ("failed", True)


def test_cancelling_stops_the_real_model(served: Served) -> None:
    body = {"version": VERSION, "input": {"img": PNG_URL, "seconds": 60}}
    made = served.http.post("/v1/predictions", json=body).json()
    until(lambda: "step" in served.http.get(made["urls"]["get"]).json()["logs"])
    assert served.http.post(made["urls"]["cancel"]).json()["status"] == "canceled"
    assert served.create().json()["status"] == "succeeded"


def test_a_worker_that_dies_twice_fails_the_prediction_and_serves_the_next(served: Served) -> None:
    made = served.create(input={"img": PNG_URL, "act": "die"}).json()
    assert (made["status"], "lost twice" in made["error"]) == ("failed", True)
    assert served.create().json()["status"] == "succeeded"


def test_the_commands_show_cancel_and_retry(served: Served) -> None:
    made = served.create().json()
    assert made["id"] in harness(served, "predictions", "list").stdout
    assert '"status": "succeeded"' in harness(served, "predictions", "show", made["id"]).stdout
    assert '"status": "succeeded"' in harness(served, "predictions", "cancel", made["id"]).stdout
    again = harness(served, "predictions", "retry", made["id"])
    assert again.returncode == 0
    assert made["id"] not in again.stdout
    unknown = harness(served, "predictions", "show", "nothing")
    assert (unknown.returncode, "could not be found" in unknown.stderr) == (1, True)


def test_the_commands_show_webhooks_and_deliver_again(served: Served) -> None:
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.headers["webhook-id"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.05,))
        thread.start()
        url = f"http://localhost:{receiver.server_address[1]}/"
        made = served.create(webhook=url, webhook_events_filter=["completed"]).json()
        until(lambda: heard)
        until(lambda: "delivered" in harness(served, "webhooks", "list").stdout)
        assert made["id"] in harness(served, "webhooks", "list").stdout
        assert harness(served, "webhooks", "redeliver", heard[0]).returncode == 0
        until(lambda: heard == heard[:1] * 2)
        receiver.shutdown()
        thread.join()


def test_commands_without_a_server_say_what_to_start(served: Served) -> None:
    missing = harness(served, "predictions", "list", "--url", f"http://127.0.0.1:{free_port()}")
    assert (missing.returncode, "harness serve" in missing.stderr) == (1, True)


def test_a_second_server_on_the_same_data_is_refused(served: Served, toy: Path) -> None:
    command = [sys.executable, "-m", "harness", "serve", "--port", "0", "--model-server", served.url]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    second = subprocess.run(command, cwd=toy, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "stop that one" in second.stderr.splitlines()[-1]
    assert "Traceback" not in second.stderr


def test_a_taken_port_is_refused_with_the_remedy(tmp_path: Path, served: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "harness", "serve", "--port", port, "--data", str(tmp_path)]
        command += ["--model-server", "http://127.0.0.1:1"]
        (tmp_path / "model-schema.json").write_text('{"components": {"schemas": {"Input": {}}}}')
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, "--port" in ended.stderr) == (1, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_and_takes_the_model_server_with_it(toy: Path, number: int, tmp_path: Path) -> None:
    server = Served(toy, "--data", str(tmp_path))
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert children
    assert server.end(number) == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_durations_and_rates_are_read_as_people_write_them() -> None:
    assert [seconds(text) for text in ("20s", "5m", "1h", "30", "0.5s")] == [20, 300, 3600, 30, 0.5]
    assert per_minute("6/min") == 6
    for wrong in ("", "1d", "-5s", "h"):
        with pytest.raises(UsageError):
            seconds(wrong)
    for wrong in ("6", "0/min", "6/s"):
        with pytest.raises(UsageError):
            per_minute(wrong)


def test_over_https_outputs_are_what_the_hosted_service_gives(toy: Path, tmp_path: Path) -> None:
    """A client that trusts the printed bundle gets https: URLs, which the SDKs make file objects of."""
    data, port = tmp_path / "data", str(free_port())
    words = ["serve", "--port", port, "--data", str(data), "--outputs", "https", "--runtime", "process"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TOY_MARKS": ""}
    process = subprocess.Popen([sys.executable, "-m", "harness", *words], cwd=toy, env=environment)
    try:
        until(lambda: (data / "tls" / "bundle.pem").exists(), 60)
        trusted = ssl.create_default_context(cafile=data / "tls" / "bundle.pem")
        headers = {"Authorization": "Bearer x", "Prefer": "wait", "User-Agent": "replicate-python/1.0.7"}
        url = f"https://localhost:{port}"
        with httpx.Client(base_url=url, verify=trusted, trust_env=False, headers=headers) as http:
            until(lambda: _answers(http), 30)
            body = {"version": VERSION, "input": {"img": PNG_URL}}
            made = http.post("/v1/predictions", json=body, timeout=60).json()
            assert made["output"].startswith(f"{url}/delivery/")
            assert http.get(made["output"]).content == PNG
    finally:
        process.terminate()
        process.wait(30)
    assert (data / "tls" / "authority.key").stat().st_mode & 0o077 == 0


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/v1/account").is_success
    except httpx.TransportError:
        return False


def test_cancelling_at_once_stops_the_real_model_too(served: Served) -> None:
    """Cog does not notice every caller that hangs up early."""
    body = {"version": VERSION, "input": {"img": PNG_URL, "seconds": 60}}
    for _ in range(5):
        made = served.http.post("/v1/predictions", json=body).json()
        until(partial(served.begun, made["urls"]["get"]))
        served.http.post(made["urls"]["cancel"])
    began = time.monotonic()
    assert served.create().json()["status"] == "succeeded"
    assert time.monotonic() - began < 30  # of the 60 s or more that one of them would take
