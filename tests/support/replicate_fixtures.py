"""Fixtures: Replicate's own clients, and a local Replicate for them to call."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from replicate_processes import LocalReplicate
from toy_models import make_toy

from harness.model_server.client import ModelServer
from harness.model_server.process import ServerProcess

JS_PACKAGE = Path(__file__).parents[1] / "clients" / "js" / "package.json"
INSTALL_S = 300

Interpreters = Callable[..., Path]


def _install(command: list[str], folder: Path) -> None:
    """Run an installer in `folder`; skips the test, with the reason, where the registry cannot be reached."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if done.returncode != 0:
        shutil.rmtree(folder)
        pytest.skip(f"{' '.join(command[-2:])} cannot be installed: {done.stderr.strip()[-300:]}")


@pytest.fixture(scope="session")
def client_python(pytestconfig: pytest.Config) -> Interpreters:
    """A Python of its own with the given requirements, such as `replicate==1.0.7`; kept in pytest's cache."""

    def interpreter(*requirements: str) -> Path:
        folder = pytestconfig.cache.mkdir("clients") / "-".join(r.replace("==", "-") for r in requirements)
        python, done = folder / "bin" / "python", folder / "installed"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=INSTALL_S)
            _install([str(python), "-m", "pip", "install", "--quiet", *requirements], folder)
            done.touch()
        return python

    return interpreter


@pytest.fixture(scope="session")
def client_js(pytestconfig: pytest.Config) -> Path:
    """A folder where Node finds the JavaScript client; kept in pytest's cache."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = pytestconfig.cache.mkdir("clients") / "js"
    done = folder / "installed"
    if not done.exists() or done.read_text() != JS_PACKAGE.read_text():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(JS_PACKAGE, folder)
        _install(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"], folder)
        done.write_text(JS_PACKAGE.read_text())
    return folder


@pytest.fixture
def tiny_photo(tmp_path: Path) -> Path:
    """A picture of 8 x 6 pixels."""
    path = tmp_path / "photo.png"
    Image.new("RGB", (8, 6), "teal").save(path)
    return path


@pytest.fixture
def client_environment(tiny_photo: Path) -> dict[str, str]:
    """Variables of a client program, without a proxy and without this test's own Python path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "proxy" not in name.lower()}
    own = {"REPLICATE_API_TOKEN": "r8_local", "REPLICATE_POLL_INTERVAL": "0.05"}
    return {**kept, **own, "PHOTO": str(tiny_photo), "SUFFIX": uuid.uuid4().hex[:8]}


@pytest.fixture(scope="session")
def enlarging_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Cog server with GFPGAN's inputs that enlarges photos without any network."""
    toy = make_toy("restorer", tmp_path_factory.mktemp("model"))
    asyncio.run(_start(toy.process))
    yield toy.process.url
    asyncio.run(toy.process.stop())


async def _start(process: ServerProcess) -> None:
    await process.start()
    async with ModelServer(process.url) as client:
        await client.wait_ready(60)


@pytest.fixture(scope="session")
def local_replicate(enlarging_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Origin of a local Replicate, shared by tests that leave it in order."""
    with LocalReplicate(tmp_path_factory.mktemp("replicate"), enlarging_model) as local:
        yield local.url


@pytest.fixture
def rate_limited_replicate(enlarging_model: str, tmp_path: Path) -> Iterator[str]:
    """Origin of a local Replicate that takes one creation a minute."""
    with LocalReplicate(tmp_path / "limited", enlarging_model, options=("--rate-limit", "1/min")) as local:
        yield local.url
