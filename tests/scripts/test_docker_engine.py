"""`scripts/docker-engine` must bring a real engine up from nothing, again and again, and take all of it down."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/docker-engine"
IS_DEBIAN_ROOT = os.geteuid() == 0 and Path("/etc/debian_version").exists()


def run(command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name not in ("BASE_IMAGE", "REGISTRY")}
    return subprocess.run(
        [SCRIPT, *command.split()], env=environment | settings, capture_output=True, text=True, timeout=280, check=False
    )


class Engine:
    """A private engine in a directory of its own."""

    def __init__(self, directory: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.registry = f"127.0.0.1:{probe.getsockname()[1]}"
        self.settings = {"ENGINE_DIR": directory, "REGISTRY": self.registry}
        self.directory = Path(directory)

    def script(self, command: str) -> str:
        done = run(command, **self.settings)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def sh(self, command: str) -> str:
        """Run a shell command with the variables that `env` prints."""
        variables = run("env", **self.settings).stdout
        done = subprocess.run(["bash", "-ec", f"{variables}\n{command}"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def pid(self, name: str) -> int:
        return int((self.directory / f"{name}.pid").read_text())


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if not IS_DEBIAN_ROOT or not shutil.which("dockerd"):
        pytest.skip("needs root on a Debian that has docker.io: the script would install packages here")
    with tempfile.TemporaryDirectory(prefix="e", dir="/tmp") as directory:  # short: a socket's path is limited
        one = Engine(directory)
        try:
            one.script("up")
            yield one
        finally:
            one.script("down")


@pytest.mark.docker
def test_the_base_image_has_python_and_a_pip_that_installs(engine: Engine) -> None:
    assert engine.sh('docker run --rm --network none "$BASE_IMAGE" python -m pip --version').startswith("pip ")
    assert (
        engine.sh('docker run --rm --network none "$BASE_IMAGE" sh -c "ls /usr/lib/python3*/EXTERNALLY-MANAGED || :"')
        == ""
    )


@pytest.mark.docker
def test_a_second_up_changes_nothing(engine: Engine) -> None:
    before = engine.pid("dockerd"), engine.pid("registry"), engine.sh("docker images --quiet --no-trunc")
    assert engine.script("up") == ""
    assert (engine.pid("dockerd"), engine.pid("registry"), engine.sh("docker images --quiet --no-trunc")) == before


@pytest.mark.docker
def test_images_can_be_built_with_buildkit_pushed_and_pulled(engine: Engine) -> None:
    dockerfile = r"FROM $BASE_IMAGE\nRUN --mount=type=cache,target=/c python -c \"open('/made','w')\"\n"
    built = engine.sh(
        f'printf "{dockerfile}" | docker build -q -t "$REGISTRY/made" - && docker push -q "$REGISTRY/made" '
        '&& docker rmi "$REGISTRY/made" >/dev/null && docker pull -q "$REGISTRY/made"'
    )
    assert built.splitlines()[-1] == f"{engine.registry}/made:latest"


@pytest.mark.docker
def test_it_comes_up_again_after_its_engine_was_killed(engine: Engine) -> None:
    killed = engine.pid("dockerd")
    os.kill(killed, signal.SIGKILL)
    assert "engine" in engine.script("up")
    assert engine.pid("dockerd") != killed
    assert engine.sh('docker run --rm --network none "$BASE_IMAGE" echo alive') == "alive"


@pytest.mark.docker
def test_down_stops_everything_may_be_repeated_and_keeps_the_images(engine: Engine) -> None:
    pids = engine.pid("dockerd"), engine.pid("registry")
    images = engine.sh("docker images --quiet --no-trunc")
    for _ in range(2):
        engine.script("down")
    for pid in pids:
        assert not is_alive(pid)
    assert "making" not in engine.script("up")
    assert engine.sh("docker images --quiet --no-trunc") == images


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.parametrize("command", ["", "start", "stop"])
def test_a_command_it_does_not_know_gets_the_usage(command: str) -> None:
    done = run(command)
    assert (done.returncode, "up|down|env" in done.stderr) == (1, True)


@pytest.mark.skipif(not IS_DEBIAN_ROOT, reason="only root on Debian gets that far")
@pytest.mark.parametrize(("directory", "says"), [("relative", "absolute path"), ("/" + "x" * 120, "107")])
def test_a_directory_that_cannot_work_is_refused(directory: str, says: str) -> None:
    done = run("up", ENGINE_DIR=directory)
    assert (done.returncode, says in done.stderr) == (1, True)
    assert not Path(directory).exists()


def test_an_ordinary_user_is_told_that_it_needs_root() -> None:
    nobody = 65534 if os.geteuid() == 0 else None
    script = SCRIPT.read_text()  # by way of standard input: an ordinary user may not be able to read this directory
    done = subprocess.run(
        ["bash", "-s", "up"], input=script, capture_output=True, text=True, cwd="/", check=False, user=nobody
    )
    assert (done.returncode, "root" in done.stderr) == (1, True)
