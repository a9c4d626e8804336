"""The programs under examples/ run against the local Replicate with nothing changed but the base URL."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIENT = ("replicate==1.0.7",)
SERVICE = ("replicate==1.0.7", "fastapi==0.165.0", "uvicorn==0.54.0")

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
Serve = Callable[..., str]


@pytest.fixture
def run(client_environment: dict[str, str], local_replicate: str, tmp_path: Path) -> Run:
    """Run one example in an empty folder; `url` is the local Replicate's, without /v1."""

    def run_example(*command: object, url: str = local_replicate, v1: str = "/v1", cwd: Path = tmp_path) -> Done:
        environment = {**client_environment, "REPLICATE_BASE_URL": url + v1}
        words = [str(word) for word in command]
        return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)

    return run_example


def assert_doubled(photo: Path, restored: Path) -> None:
    with Image.open(photo) as before, Image.open(restored) as after:
        assert after.size == (2 * before.width, 2 * before.height)


@pytest.mark.skipif(shutil.which("ruby") is None, reason="Ruby is not installed")
def test_a_rails_job_stores_strings_and_fetches_the_picture(run: Run, tiny_photo: Path, tmp_path: Path) -> None:
    done = run("ruby", EXAMPLES / "rails_job.rb", tiny_photo, tmp_path / "restored.png")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": succeeded, http://" in done.stdout
    assert_doubled(tiny_photo, tmp_path / "restored.png")


def test_raw_http(run: Run, tiny_photo: Path, tmp_path: Path, client_python: Callable[..., Path]) -> None:
    done = run(client_python(*CLIENT), EXAMPLES / "raw_http.py", tiny_photo, tmp_path / "restored.png")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "succeeded"
    assert_doubled(tiny_photo, tmp_path / "restored.png")


def test_four_at_once_of_which_one_is_canceled_half_way(
    run: Run, tmp_path: Path, client_python: Callable[..., Path]
) -> None:
    names = ["a.png", "b.png", "c.png", "d.png"]
    for name in names:  # a megapixel takes the model a second; the last must not end before it is cancelled
        Image.new("RGB", (4000, 2500) if name == names[-1] else (1000, 1000)).save(tmp_path / name)
    done = run(client_python(*CLIENT), EXAMPLES / "async_batch.py", *names, v1="")
    assert done.returncode == 0, done.stdout + done.stderr
    for name, status in zip(names, ["succeeded"] * 3 + ["canceled"], strict=True):
        assert re.search(rf"^{name}: {status} ", done.stdout, re.MULTILINE), done.stdout
        assert re.search(rf"^{name}: step \d+/\d+ v1\.4$", done.stdout, re.MULTILINE), done.stdout


def test_a_thin_client_maps_what_the_sdk_raises(
    run: Run, tiny_photo: Path, tmp_path: Path, client_python: Callable[..., Path], rate_limited_replicate: str
) -> None:
    program = (client_python(*CLIENT), EXAMPLES / "thin_client.py")
    restored = tmp_path / "restored.png"
    assert run(*program, tiny_photo, restored, v1="").returncode == 0
    assert_doubled(tiny_photo, restored)

    unknown = run(*program, tiny_photo, restored, "0" * 64, v1="")
    assert unknown.stderr.startswith("NotFound: The specified version does not exist")

    (tmp_path / "text.jpg").write_text("not a photo")
    failed = run(*program, tmp_path / "text.jpg", restored, v1="")
    assert failed.stderr.startswith("RestorationFailed: "), failed.stderr

    attempts = [run(*program, tiny_photo, restored, url=rate_limited_replicate, v1="") for _ in range(2)]
    assert attempts[-1].stderr.startswith("RateLimited: Request was throttled."), attempts[-1].stderr


def test_javascript(run: Run, tiny_photo: Path, tmp_path: Path, client_js: Path) -> None:
    shutil.copy(EXAMPLES / "run_and_save.mjs", client_js)  # Node looks for packages beside the program
    done = run("node", "run_and_save.mjs", tiny_photo, tmp_path / "restored.png", cwd=client_js)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"webhook for \w+: valid, succeeded, http://", done.stdout)
    assert_doubled(tiny_photo, tmp_path / "restored.png")


@pytest.fixture
def serve(
    client_environment: dict[str, str], local_replicate: str, client_python: Callable[..., Path]
) -> Iterator[Serve]:
    """Start the FastAPI example and return its URL; ended with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**environment: str) -> str:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        url = f"http://localhost:{port}"
        own = {"REPLICATE_BASE_URL": local_replicate, "PUBLIC_URL": url, **environment}
        command = [str(client_python(*SERVICE)), "-m", "uvicorn", "web_service:app", "--port", str(port)]
        started.append(subprocess.Popen(command, cwd=EXAMPLES, env={**client_environment, **own}))
        until(lambda: answers(url))
        return url

    yield start
    for process in started:
        process.terminate()
        process.wait(10)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/photos/none", trust_env=False).status_code == 404
    except httpx.TransportError:
        return False


def until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.05)


def status_of(url: str, job: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{url}/photos/{job}", trust_env=False).json()
    return answer


@contextmanager
def recording_proxy(target: list[str]) -> Iterator[tuple[str, list[httpx.Request]]]:
    """Passes webhooks on to `target[0]` and remembers them, so that a test can deliver one again."""
    seen: list[httpx.Request] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            signed = {name: value for name, value in self.headers.items() if name.lower().startswith("webhook-")}
            request = httpx.Request("POST", f"{target[0]}{self.path}", headers=signed, content=body)
            with httpx.Client(trust_env=False) as client:
                status = client.send(request).status_code
            seen.append(request)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("localhost", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://localhost:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()


def test_a_service_verifies_webhooks_and_survives_duplicates(serve: Serve, tiny_photo: Path) -> None:
    target: list[str] = []
    with recording_proxy(target) as (public_url, seen):
        url = serve(PUBLIC_URL=public_url)
        target.append(url)
        job = httpx.post(f"{url}/photos", content=tiny_photo.read_bytes(), trust_env=False).json()["id"]
        until(lambda: status_of(url, job)["status"] == "succeeded")
        assert status_of(url, job)["output"].startswith("http://")
        until(lambda: seen)

        with httpx.Client(trust_env=False) as client:
            again = client.send(seen[0])
            signed = {name: value for name, value in seen[0].headers.items() if name.startswith("webhook-")}
            forged = client.post(seen[0].url, headers=signed, content=seen[0].content + b" ")
    assert again.status_code == 200
    assert forged.status_code == 401
    assert status_of(url, job)["webhooks"] == 1


def test_a_service_marks_jobs_stale_when_nothing_arrives(serve: Serve, tiny_photo: Path) -> None:
    url = serve(PUBLIC_URL="http://localhost:1", STALE_AFTER_S="0.5")
    job = httpx.post(f"{url}/photos", content=tiny_photo.read_bytes(), trust_env=False).json()["id"]
    until(lambda: status_of(url, job)["status"] == "stale")
