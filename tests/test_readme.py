"""README must be true: its tables are those of the code, its commands are run, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import skimage.data
from PIL import Image

from restoration.settings import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def block(name: str) -> str:
    """The commands of the one block that is marked test=NAME."""
    (commands,) = re.findall(rf"^```\w+ test={name}\n(.*?)^```$", README, flags=re.S | re.M)
    return str(commands)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what git tracks, with a photo.jpg in it, as a person would have it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, tmp_path / name)
    Image.fromarray(skimage.data.astronaut()[:64, :96]).save(tmp_path / "photo.jpg")  # hair alone: no face, fast
    return tmp_path


def test_the_tables_are_those_of_the_code() -> None:
    subprocess.run([sys.executable, "scripts/readme.py"], cwd=REPOSITORY, check=True)


def test_every_command_of_make_that_is_named_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(
        r"\bmake ([a-z]+)\b", "\n".join(re.findall(r"```sh.*?```|`make [^`]*`", README, flags=re.S))
    ):
        assert re.search(rf"^{target}:", makefile, flags=re.M), f"make {target}"


def test_every_file_that_is_named_exists() -> None:
    for row in re.findall(r"^\| (`[^|]+) \|", README, flags=re.M):
        folder = ""
        for name in re.findall(r"`([\w./-]+(?:\.\w+|/))`", row):
            path = name if "/" in name or (REPOSITORY / name).exists() else folder + name
            folder = path.rpartition("/")[0] + "/" if "/" in path else folder
            assert (REPOSITORY / path).exists(), path


@pytest.fixture
def shell(checkout: Path, standins: Path) -> Callable[[str], None]:
    """Run a block of README in the checkout, with stand-in weights."""
    binaries = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    weights = {"RESTORATION_WEIGHTS": str(standins), "RESTORATION_DETECTOR": "recorded"}
    environment = {**os.environ, **weights, "PATH": binaries, "PYTHONPATH": str(checkout)}

    def run(commands: str) -> None:
        subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=checkout, env=environment, check=True)

    return run


def test_predict_runs(shell: Callable[[str], None], checkout: Path) -> None:
    shell(block("predict"))
    with Image.open(checkout / "restored.webp") as restored:
        assert restored.size == (144, 96)


def test_a_model_server_is_kept_and_called(shell: Callable[[str], None], checkout: Path) -> None:
    try:
        shell(block("up"))
        shell(block("http"))
    finally:
        shell("harness down")
    for name in ("photo-restored.png", "restored.png"):
        with Image.open(checkout / name) as restored:
            assert restored.size == (192, 128)


@pytest.fixture
def served(checkout: Path, standins: Path) -> Iterator[None]:
    """The local Replicate, as `make serve` starts it."""
    environment = {**os.environ, "RESTORATION_WEIGHTS": str(standins), "RESTORATION_DETECTOR": "recorded"}
    environment["PYTHONPATH"] = str(checkout)
    with (checkout / "serve.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "harness", "serve"], cwd=checkout, env=environment, stderr=log)
    try:
        wait_for(lambda: httpx.get("http://127.0.0.1:8000/v1/account", headers={"Authorization": "Bearer x"}), server)
        yield
    finally:
        server.terminate()
        server.wait(30)


def wait_for(call: Callable[[], object], server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            call()
        except httpx.TransportError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


@pytest.mark.usefixtures("served")
def test_applications_use_it(
    shell: Callable[[str], None],
    checkout: Path,
    client_python: Callable[..., Path],
    client_js: Path,
    client_environment: dict[str, str],
) -> None:
    """The snippets for Python, JavaScript and curl, as they stand, against the real predictor."""
    python = client_python("replicate==1.0.7")
    environment = client_environment | {"REPLICATE_BASE_URL": "http://127.0.0.1:8000"}
    subprocess.run([python, "-c", block("python")], cwd=checkout, env=environment, check=True)
    (checkout / "snippet.mjs").write_text(block("javascript"))
    (checkout / "node_modules").symlink_to(client_js / "node_modules")
    subprocess.run(["node", "snippet.mjs"], cwd=checkout, env=environment, check=True)
    shell(block("curl"))
    for name in ("from-python.png", "from-javascript.png", "from-curl.png"):
        with Image.open(checkout / name) as restored:
            assert restored.size == (192, 128), name
