"""The command line as a person meets it: what is typed, what is printed, the exit code, and what is left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from packaged import RECORDED, REPOSITORY
from PIL import Image
from toy_models import PHOTO, TOYS

from harness import doctor, service
from harness.model_server import containers

pytest_plugins = ["docker_fixtures", "packaged_model"]
SHORT_S = 60


@dataclass
class Terminal:
    """A shell in the directory of a toy model, with a photo in it."""

    directory: Path
    more: dict[str, str] = field(default_factory=lambda: {"DOCKER_HOST": "unix:///nonexistent.sock"})

    def type(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `harness WORDS`; fails unless it ends with `code`."""
        done = subprocess.run(self.command(*words), **self.options(), timeout=SHORT_S)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Run `harness WORDS` without waiting for it."""
        return subprocess.Popen(self.command(*words), **self.options())

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "harness.cli", *words]

    def options(self) -> dict[str, Any]:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TOY_MARKS": str(self.marks), "COLUMNS": "200"}
        return {
            "cwd": self.directory,
            "env": environment | self.more,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }

    @property
    def marks(self) -> Path:
        return self.directory / "marks"

    @property
    def home(self) -> Path:
        return self.directory / ".harness"

    def processes(self) -> list[psutil.Process]:
        """Everything that still runs in this directory."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.directory) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def until(condition: Callable[[], object], within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.05)


@pytest.fixture
def terminal(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    directory = tmp_path.resolve() / "model"
    shutil.copytree(TOYS / getattr(request, "param", "echo"), directory)
    (directory / "marks").mkdir()
    (directory / "photo.jpg").write_bytes(PHOTO)
    one = Terminal(directory)
    yield one
    service.down(one.home)
    until(lambda: one.processes() == [])


def test_predict_writes_beside_the_photo_and_says_what_was_done(terminal: Terminal) -> None:
    done = terminal.type("predict", "-i", "img=@photo.jpg", "-i", "seconds=0.1")
    assert done.stdout == "photo-restored.jpg\n"
    assert (terminal.directory / "photo-restored.jpg").read_bytes() == PHOTO
    assert done.stderr.startswith("step 0\nstep 1\nfaces: 1 found, 1 restored; 3 x 2 pixels; echo 0.50 s; on cpu; ")


def test_predict_json_is_for_scripts(terminal: Terminal) -> None:
    done = terminal.type("predict", "--json", "-i", "img=@photo.jpg", "-o", "new.png")
    answer = json.loads(done.stdout)
    assert (answer["status"], answer["output"], answer["error"]) == ("succeeded", "new.png", None)
    assert answer["metrics"]["faces_found"] == 1
    assert (terminal.directory / "new.png").read_bytes() == PHOTO


def test_a_failed_prediction_is_one_line_and_exit_code_1(terminal: Terminal) -> None:
    done = terminal.type("predict", "-i", "img=@photo.jpg", "-i", "act=raise", code=1)
    assert (done.stdout, done.stderr) == ("", "Error: RuntimeError: asked to fail\n")
    done = terminal.type("predict", "--json", "-i", "img=@photo.jpg", "-i", "act=raise", code=1)
    assert json.loads(done.stdout)["error"] == "RuntimeError: asked to fail"
    assert not (terminal.directory / "photo-restored.jpg").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["img=@photo.jpg", "sclae=2"], "The model has no input 'sclae'; it has img, act, seconds, scale, seed."),
        (["img=@photo.jpg", "scale=big"], "scale must be of type number, not 'big'."),
        (["img=@photo.jpg", "scale=true"], "scale must be of type number, not 'true'."),
        (["img=photo.jpg"], "img is a file: write img=@photo.jpg for one on this machine, or an http(s) URL."),
        (["img=@none.jpg"], "img: none.jpg cannot be read (No such file or directory)."),
        (["img=@photo.jpg", "scale=9"], "scale: 9 is greater than the maximum of 4"),
        (["scale=2"], "img: Field required"),
    ],
)
def test_a_mistyped_input_is_explained(kept: Terminal, words: list[str], complaint: str) -> None:
    options = [word for pair in words for word in ("-i", pair)]
    assert kept.type("predict", *options, code=1).stderr == f"Error: {complaint}\n"


def test_a_word_without_equals_sign_is_explained_before_anything_starts(terminal: Terminal) -> None:
    done = terminal.type("predict", "-i", "photo.jpg", code=1)
    assert done.stderr == "Error: An input is name=value, not 'photo.jpg'; a file is name=@path.\n"


def test_nothing_at_the_url_is_one_line(terminal: Terminal) -> None:
    done = terminal.type("predict", "-i", "img=@photo.jpg", "--url", "http://127.0.0.1:9", code=1)
    assert done.stderr == "Error: No model server answers at http://127.0.0.1:9 (ConnectError); start one.\n"


@pytest.mark.parametrize("kept_up", [False, True])
def test_ctrl_c_cancels_the_prediction_for_real(terminal: Terminal, kept_up: bool) -> None:
    if kept_up:
        terminal.type("up", "--port", "0")
    command = terminal.start("predict", "-i", "img=@photo.jpg", "-i", "seconds=60")
    until((terminal.marks / "started").exists)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=SHORT_S)
    assert command.returncode == 130
    assert said.endswith("Cancelled.\n")
    assert "Traceback" not in said
    until((terminal.marks / "CancelationException").exists)


@pytest.mark.parametrize("terminal", ["setup_fails"], indirect=True)
def test_a_model_that_cannot_start_says_why(terminal: Terminal) -> None:
    done = terminal.type("predict", "-i", "img=x", code=1)
    assert done.stderr == "Error: The predictor's setup failed: RuntimeError: weights missing: toy.pth\n"
    done = terminal.type("up", "--port", "0", code=1)
    assert "Trying again." in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "Error: The model does not start: The predictor's setup failed: RuntimeError: weights missing: toy.pth "
        "Its log: harness logs."
    )
    logs = terminal.type("logs").stdout
    assert "daemon: " in logs
    assert re.search(r"^server-0: .*coglet", logs, re.MULTILINE)
    terminal.type("status", code=1)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A terminal where the model is kept up."""
    directory = tmp_path_factory.mktemp("kept").resolve() / "model"
    shutil.copytree(TOYS / "echo", directory)
    (directory / "marks").mkdir()
    (directory / "photo.jpg").write_bytes(PHOTO)
    one = Terminal(directory)
    one.type("up", "--port", "0")
    yield one
    assert one.type("down").stdout == "Stopped.\n"
    until(lambda: one.processes() == [])


def test_up_status_predict_logs_down(terminal: Terminal) -> None:
    up = terminal.type("up", "--port", "0", "--replicas", "2")
    assert up.stderr.startswith("Runtime: process (no Docker Engine answers)\n")
    urls = up.stdout.split()
    assert len(set(urls)) == 2
    status = terminal.type("status").stdout
    assert all(url in status for url in urls)
    assert status.count("ready") == 2
    assert "are up already" in terminal.type("up", code=1).stderr
    terminal.type("predict", "-i", "img=@photo.jpg")
    assert len((terminal.marks / "setup").read_text().split()) == 2, "the prediction used what was up"
    assert "server-1: " in terminal.type("logs").stdout
    assert terminal.type("down").stdout == "Stopped.\n"
    assert terminal.type("down").stdout == "No model server was up.\n"
    assert terminal.type("status", code=1).stdout == "No model server is up; start one: harness up.\n"


def test_logs_follow_shows_what_comes(kept: Terminal) -> None:
    following = kept.start("logs", "-f")
    assert following.stdout is not None
    kept.type("predict", "-i", "img=@photo.jpg", "-i", "act=shout")
    assert any("x" * 1000 in line for line in following.stdout)
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=SHORT_S)
    assert following.returncode == 130


def test_a_crash_is_reported_and_the_model_is_back_for_the_next_prediction(kept: Terminal) -> None:
    done = kept.type("predict", "-i", "img=@photo.jpg", "-i", "act=die", code=1)
    assert done.stderr.startswith("Error: The model server's worker died during prediction ")
    until(lambda: len((kept.marks / "setup").read_text().split()) == 2)
    kept.type("predict", "-i", "img=@photo.jpg")
    running = service.current(kept.home)
    assert running is not None
    assert running.replicas[0].restarts == 1


def test_a_killed_daemon_takes_its_model_servers_with_it(terminal: Terminal) -> None:
    terminal.type("up", "--port", "0")
    running = service.current(terminal.home)
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    until(lambda: terminal.processes() == [])
    terminal.type("status", code=1)
    terminal.type("up", "--port", "0")
    terminal.type("predict", "-i", "img=@photo.jpg")


def test_a_taken_port_is_named(terminal: Terminal, kept: Terminal) -> None:
    running = service.current(kept.home)
    assert running is not None
    port = running.replicas[0].url.rsplit(":", 1)[1]
    done = terminal.type("up", "--port", port, code=1)
    assert f"Port {port} is taken by another program; choose another one." in done.stderr


@pytest.mark.parametrize("words", [["--runtime", "podman"], ["--gpus", "two"], ["--replicas", "0"]])
def test_an_option_that_makes_no_sense_starts_nothing(terminal: Terminal, words: list[str]) -> None:
    done = subprocess.run(terminal.command("up", *words), **terminal.options(), timeout=SHORT_S)
    assert done.returncode in (1, 2)
    assert not terminal.home.exists()


def test_docker_without_an_engine_says_what_to_do(terminal: Terminal) -> None:
    done = terminal.type("up", "--runtime", "docker", code=1)
    assert "No Docker Engine answers" in done.stderr
    assert "--runtime process" in done.stderr


@pytest.mark.docker
def test_up_in_docker_takes_the_image_and_leaves_no_container(model: str, terminal: Terminal, tmp_path: Path) -> None:
    terminal.more = RECORDED
    Image.new("RGB", (40, 30), "teal").save(terminal.directory / "photo.png")
    done = terminal.type("up", "--port", "0", "--image", model, "--gpus", "none")
    assert done.stderr.startswith(f"Runtime: docker (a Docker Engine answers and has the image {model})\n")
    said = terminal.type("predict", "-i", "img=@photo.png", "-i", "background=lanczos").stderr
    assert "faces: 0 found, 0 restored; 80 x 60 pixels" in said
    daemon = service.current(terminal.home)
    assert daemon is not None
    os.kill(daemon.pid, signal.SIGKILL)
    until(lambda: service.current(terminal.home) is None)
    terminal.type("down")
    assert not [found for found in containers.find() if found.replica.startswith(service.prefix(terminal.home))]


def test_doctor_says_what_to_do_about_each_thing(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RESTORATION_WEIGHTS", str(tmp_path / "nowhere"))
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_secret")
    done = terminal.type("doctor", code=1)
    lines = {line.split(":")[0].split(maxsplit=1)[1]: line for line in done.stdout.splitlines()}
    assert lines["python"].startswith("ok")
    assert lines["weights"].startswith("missing")
    assert lines["docker"].startswith("optional")
    assert lines["REPLICATE_API_TOKEN"] == "ok       REPLICATE_API_TOKEN: set"
    assert "secret" not in done.stdout


def test_doctor_notices_a_schema_that_is_out_of_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(TOYS / "echo", tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")

    def found() -> str:
        return next(finding.text for finding in doctor.examine() if finding.subject == "schema")

    assert "no .cog/openapi_schema.json yet" in found()
    subprocess.run(
        [sys.executable, "-m", "harness.schema"], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=True
    )
    assert found() == "in step with predict.py"
    predictor = tmp_path / "model" / "predict.py"
    predictor.write_text(predictor.read_text().replace("The photo.", "The picture."))
    assert "make schema" in found()
