"""The whole push without an account: a real image in a real registry, taken up by its digest, and its prediction."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from harness.docker_engine import Engine, connected
from harness.errors import RegistryFailed
from harness.model_server.containers import find
from harness.registry import Registry
from harness.release import rehearsal

pytest_plugins = ["docker_fixtures"]

REPOSITORY = Path(__file__).parents[3]
GREY = REPOSITORY / "tests/toys/grey"
DOCKERFILE = """ARG BASE_IMAGE=python:3.12-slim
FROM ${BASE_IMAGE}
RUN pip install --no-cache-dir %s
WORKDIR /src
EXPOSE 5000
ENV COG_PREDICT_TYPE_STUB=predict.py:Predictor
CMD ["python", "-m", "cog.server.http"]
COPY . /src
"""


@pytest.fixture
def registry(engine: Engine) -> str:
    """The registry on this machine; without one the test is skipped, or fails where REQUIRE_DOCKER is set."""
    try:
        return rehearsal.registry_host()
    except RegistryFailed as error:
        if os.environ.get("REQUIRE_DOCKER"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    """The folder of a model that turns pictures grey and that passes the gate."""
    root = shutil.copytree(GREY, tmp_path / "grey")
    (root / "Dockerfile").write_text(
        DOCKERFILE % " ".join(f"{name}=={version(name)}" for name in ("cog", "coglet", "pillow"))
    )
    return root


@pytest.fixture
def name(registry: str) -> Iterator[str]:
    """A model's name that is free; its image goes from the engine in the end."""
    model = f"rehearsal/{uuid.uuid4().hex[:8]}"
    yield model
    with connected() as client:
        for image in client.images.list(f"{registry}/{model}"):
            client.images.remove(image.id, force=True)


def harness(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=280)


@pytest.mark.docker
def test_the_rehearsal_pushes_takes_up_serves_and_compares(registry: str, grey: Path, name: str) -> None:
    done = harness("push", name, "--rehearse", "--root", str(grey))
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert f"Created {name}, private" in said
    if shutil.which("cog") is None:
        assert "Docker builds and pushes the image, with the same labels" in said
    assert "gives what this folder's model gives" in said
    pushed = re.fullmatch(rf"{name}:([0-9a-f]{{64}})\n", done.stdout)
    assert pushed is not None
    reader = Registry(registry)
    image = reader.image(name, f"sha256:{pushed[1]}")
    assert reader.digest(name) == image.digest
    reader.close()
    with connected() as client:
        assert (
            "TORCH_HOME=/src/weights" in client.images.get(f"{registry}/{name}").attrs["Config"]["Env"]
        )  # of cog.yaml
    assert {"run.cog.openapi_schema", "run.cog.version", "run.cog.config"} <= set(image.labels)
    assert not (grey / "releases.toml").exists()  # a rehearsal leaves no record
    assert [one for one in find() if one.replica.startswith("pushed-")] == []


def test_without_a_registry_it_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY", "127.0.0.1:9")
    with pytest.raises(RegistryFailed, match="scripts/docker-engine up"):
        rehearsal.registry_host()


def test_it_never_leaves_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY", "r8.im")
    with pytest.raises(RegistryFailed, match="stays on this machine"):
        rehearsal.registry_host()
