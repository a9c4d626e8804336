"""The image that Docker alone builds is what `cog build` would give: same place, same labels, nothing needless.

One image of the real predictor, with stand-in weights, serves all tests; its dependencies are gigabytes, so the first
build on an engine takes minutes and every later one seconds.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker_inside import container_of
from packaged import RECORDED, REPOSITORY, TAG, copy_of_repository
from PIL import Image
from toy_models import eventually

from harness import image
from harness.docker_engine import Engine, connected
from harness.errors import BuildFailed, Crashed, HarnessError, ImageMissing, SetupFailed, UsageError
from harness.image import Request, build, cog_version, sizes
from harness.model_server.client import ModelServer, Outcome, new_prediction_id
from harness.model_server.container import ServerContainer
from harness.model_server.process import ServerProcess
from harness.model_server.supervisor import Patience, Supervisor

pytest_plugins = ["docker_fixtures", "packaged_model"]
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def container(model: str, tmp_path: Path) -> AsyncIterator[ServerContainer]:
    one = ServerContainer(model, tmp_path / "log", f"test-{uuid.uuid4().hex[:8]}", environment=RECORDED)
    yield one
    await one.stop()


@pytest.fixture(scope="session")
def astronaut() -> bytes:
    """A public-domain photo with one face, as PNG."""
    from skimage.data import astronaut

    with io.BytesIO() as file:
        Image.fromarray(astronaut()).save(file, "png")
        return file.getvalue()


def data_url(photo: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(photo).decode()}"


async def restore(url: str, photo: bytes, **inputs: Any) -> Outcome:  # noqa: ANN401 # the predictor's own inputs
    async with ModelServer(url) as server:
        await server.wait_ready(120)
        return await server.run(new_prediction_id(), {"img": data_url(photo)} | inputs, timeout_s=300)


def attributes(name: str) -> dict[str, Any]:
    with connected() as client:
        found: dict[str, Any] = client.images.get(name).attrs
    return found


# --- what is in it --------------------------------------------------------------------------------------------------


@pytest.mark.docker
def test_it_offers_what_an_image_of_cog_build_offers(model: str, checkout: Path) -> None:
    config = attributes(model)["Config"]
    assert config["WorkingDir"] == "/src"
    assert list(config["ExposedPorts"]) == ["5000/tcp"]
    assert config["Cmd"] == ["python", "-m", "cog.server.http"]
    assert "COG_PREDICT_TYPE_STUB=predict.py:Predictor" in config["Env"]
    assert config["User"] == "1000"
    labels = {name: text for name, text in config["Labels"].items() if name.startswith("run.cog.")}
    assert json.loads(labels.pop("run.cog.config")) == yaml.safe_load((checkout / "cog.yaml").read_text())
    assert labels.pop("run.cog.openapi_schema") == (REPOSITORY / "tests/golden/openapi_schema.json").read_text()
    assert pinned("requirements.txt") <= normalised(labels.pop("run.cog.pip_freeze").splitlines())
    assert labels == {"run.cog.has_init": "true", "run.cog.version": "0.23.1"}


def pinned(requirements: str) -> set[str]:
    lines = (line.partition("#")[0].strip() for line in (REPOSITORY / requirements).read_text().splitlines())
    return normalised(line for line in lines if "==" in line)


def normalised(requirements: Iterable[str]) -> set[str]:
    """Write package names in the one way that all their spellings share."""
    return {
        re.sub(r"[-_.]+", "-", name).lower() + at + of for name, at, of in (r.partition("==") for r in requirements)
    }


@pytest.mark.docker
def test_it_holds_only_what_a_prediction_needs(model: str) -> None:
    listed = subprocess.run(
        ["docker", "run", "--rm", model, "find", "/src", "-type", "f", "-not", "-name", "*.pyc"],
        capture_output=True,
        text=True,
        check=True,
    )
    places = {re.sub(r"^/src/(weights|restoration)/.*", r"\1", path) for path in listed.stdout.split()}
    ours = {place.removeprefix("/src/") for place in places}
    assert ours == {"predict.py", "cog.yaml", ".cog/openapi_schema.json", "restoration", "weights"}


@pytest.mark.docker
def test_a_change_of_the_predictor_rebuilds_nothing_but_the_last_layer(
    model: str, base_image: str, checkout: Path, tmp_path: Path
) -> None:
    changed = shutil.copytree(checkout, tmp_path / "changed")
    with (changed / "predict.py").open("a") as file:
        file.write(f"# {uuid.uuid4()}\n")
    build(Request(changed, f"{TAG}-changed", base_image))
    before, after = (attributes(name)["RootFS"]["Layers"] for name in (model, f"{TAG}-changed"))
    assert (before[:-1], before[-1] == after[-1]) == (after[:-1], False)


@pytest.mark.docker
def test_its_size_is_told_apart_from_its_base(model: str, base_image: str) -> None:
    whole, base = sizes(model), sizes(base_image)
    assert whole.own == whole.whole - base.whole > 1e9
    assert base.own is None
    with pytest.raises(ImageMissing, match="make image"):
        sizes("gfpgan-cog-test/absent")


# --- real predictions -----------------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_container_and_process_give_the_same_bytes(
    container: ServerContainer, checkout: Path, astronaut: bytes, tmp_path: Path
) -> None:
    process = ServerProcess(checkout, tmp_path / "process.log", environment=RECORDED)
    outcomes = []
    for runtime in container, process:
        try:
            await runtime.start()
            outcomes.append(await restore(runtime.url, astronaut, scale=1, background="lanczos"))
        finally:
            await runtime.stop()
    contained, native = outcomes
    assert contained.status == native.status == "succeeded", contained.error
    assert contained.metrics["faces_restored"] == 1
    assert contained.output == native.output


@pytest.mark.docker
async def test_weights_can_be_mounted_instead(
    model: str, base_image: str, checkout: Path, tmp_path: Path, astronaut: bytes
) -> None:
    tag = f"{TAG}-mounted"
    build(Request(checkout, tag, base_image, weights="mounted"))
    weights_bytes = sum(path.stat().st_size for path in (checkout / "weights").glob("*.pth"))
    assert sizes(model).whole - sizes(tag).whole > 0.9 * weights_bytes
    container = ServerContainer(tag, tmp_path / "log", environment=RECORDED)
    try:
        await container.start()
        with pytest.raises(SetupFailed, match="weights"):
            await restore(container.url, astronaut)
        container.weights = checkout / "weights"
        await container.start()
        assert (await restore(container.url, astronaut, background="lanczos")).status == "succeeded"
    finally:
        await container.stop()


@pytest.mark.docker
async def test_its_health_check_reads_what_cog_says(container: ServerContainer) -> None:
    command = attributes(container.image)["Config"]["Healthcheck"]["Test"]
    assert command[0] == "CMD"
    await container.start()
    async with ModelServer(container.url) as server:
        await server.wait_ready(120)
    assert exit_code(container, command[1:]) == 0
    container.environment = RECORDED | {"RESTORATION_DEVICE": "nonsense"}
    await container.start()
    async with ModelServer(container.url) as server:
        with pytest.raises(HarnessError, match="RESTORATION_DEVICE"):
            await server.wait_ready(120)
    assert exit_code(container, command[1:]) == 1


def exit_code(container: ServerContainer, command: list[str]) -> int:
    with container_of(container) as inside:
        code: int = inside.exec_run(command).exit_code
    return code


@pytest.mark.docker
async def test_running_out_of_memory_is_explained_and_the_next_prediction_works(
    container: ServerContainer, astronaut: bytes
) -> None:
    container.memory_bytes = 1536 << 20
    with io.BytesIO() as file:
        Image.new("RGB", (4000, 4000)).save(file, "png")
        large = data_url(file.getvalue())
    async with Supervisor(container, patience=Patience(watch_every_s=0.2, first_pause_s=0.1)) as supervisor:
        with pytest.raises(Crashed, match="limit of 1536 MiB"):
            await supervisor.run(new_prediction_id(), {"img": large, "scale": 3.5, "background": "lanczos"})
        small = {"img": data_url(astronaut), "scale": 1, "background": "lanczos"}
        after = await supervisor.run(new_prediction_id(), small)
    assert after.status == "succeeded"
    assert "limit of 1536 MiB" in container.logs.read_text()


@pytest.mark.docker
async def test_a_container_killed_in_the_middle_of_a_prediction_is_replaced(
    container: ServerContainer, astronaut: bytes
) -> None:
    inputs = {"img": data_url(astronaut), "scale": 1, "background": "lanczos"}
    async with Supervisor(container, patience=Patience(watch_every_s=0.2, first_pause_s=0.1)) as supervisor:
        server = await supervisor.ready()
        running = asyncio.create_task(supervisor.run(new_prediction_id(), inputs))

        async def busy() -> bool:
            return (await server.health()).status == "BUSY"

        await eventually(busy)
        with container_of(container) as inside:
            inside.kill()
        with pytest.raises(HarnessError):
            await running
        assert (await supervisor.run(new_prediction_id(), inputs)).status == "succeeded"
        assert supervisor.state.restarts == 1


# --- builds that fail, and the cog command --------------------------------------------------------------------------


@pytest.mark.docker
def test_a_failed_build_names_the_command(engine: Engine, checkout: Path) -> None:
    with pytest.raises(BuildFailed, match=r"docker build ended with exit code \d+"):
        build(Request(checkout, f"{TAG}-failed", "gfpgan-cog-test/no-such-base"))


def test_without_weights_it_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make weights"):
        build(Request(tmp_path))


def test_the_command_says_what_is_missing_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness.cli", "image"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    place = tmp_path.resolve() / "weights"
    assert done.stderr == f"Error: {place} holds no weights to put inside; fetch them (make weights) or mount them.\n"


@pytest.fixture
def fake_cog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `cog` first on PATH that says the version in `said` and writes its arguments beside itself."""
    program = tmp_path / "bin/cog"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\ncd "$(dirname "$0")"\ncase $1 in --version) cat said;; *) echo "$*" > arguments;; esac\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program.parent


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("cog version 0.22.0 (built 2026-08-13T10:00:00Z)", (0, 22, 0)),
        ("cog version v0.9.8", (0, 9, 8)),
        ("cog 0.8.0 - a browser", None),
        ("", None),
    ],
)
def test_the_cog_command_is_told_from_others_of_its_name(
    fake_cog: Path, said: str, version: tuple[int, ...] | None
) -> None:
    (fake_cog / "said").write_text(said)
    assert cog_version() == version


@pytest.fixture
def with_weights(tmp_path: Path) -> Path:
    """A copy of the repository with a file for weights: enough to decide who builds."""
    root = copy_of_repository(tmp_path / "repository")
    (root / "weights").mkdir()
    (root / "weights/some.pth").touch()
    return root


def test_a_recent_cog_builds_with_our_document_and_weights_in_their_own_layer(
    fake_cog: Path, with_weights: Path
) -> None:
    (fake_cog / "said").write_text("cog version 0.22.0 (built today)")
    assert build(Request(with_weights, "some-tag")) == "cog 0.22.0"
    expected = "build --tag some-tag --separate-weights --openapi-schema .cog/openapi_schema.json\n"
    assert (fake_cog / "arguments").read_text() == expected


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("cog version 0.19.3", {}),
        ("cog version 0.22.0", {"weights": "mounted"}),
        ("cog version 0.22.0", {"base_image": "b"}),
    ],
)
def test_docker_builds_what_cog_is_too_old_for_or_cannot_do(
    fake_cog: Path, with_weights: Path, monkeypatch: pytest.MonkeyPatch, said: str, options: dict[str, Any]
) -> None:
    (fake_cog / "said").write_text(said)
    built: list[Request] = []
    monkeypatch.setattr(image, "_build_with_docker", built.append)
    assert build(Request(with_weights, **options)) == "docker"
    assert not (fake_cog / "arguments").exists()
    assert len(built) == 1


# --- one source for every pin ---------------------------------------------------------------------------------------


def test_cog_yaml_and_dockerfile_agree() -> None:
    config = yaml.safe_load((REPOSITORY / "cog.yaml").read_text())
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    assert f"cog=={config['build']['sdk_version']}" in pinned("requirements-harness.txt")
    assert f"ARG BASE_IMAGE=python:{config['build']['python_version']}-slim\n" in dockerfile
    assert f"={image.BASE_IMAGE}\n" in dockerfile
    installed = re.search(r"apt-get install.*", dockerfile)
    assert installed is not None
    assert set(config["build"]["system_packages"]) <= set(installed[0].split())
    assert f"COG_PREDICT_TYPE_STUB={config['predict']} " in dockerfile
