"""A model server in a container: locked down, found again, cleaned up, and honest about why it died."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from docker_inside import container_of
from toy_models import eventually

from harness import schema
from harness.docker_engine import Engine, connected, has_image
from harness.docker_engine import engine as describe_engine
from harness.errors import (
    DockerError,
    EngineMissing,
    GpuMissing,
    HarnessError,
    ImageMissing,
    OutOfMemory,
    PortTaken,
    UsageError,
)
from harness.model_server.client import ModelServer, Outcome, new_prediction_id
from harness.model_server.container import ServerContainer, parse_gpus
from harness.model_server.containers import FoundContainer, find, remove
from harness.model_server.supervisor import Patience, Supervisor

pytest_plugins = ["docker_fixtures"]

TOY = Path(__file__).parents[2] / "toys/contained"
IMAGE = "gfpgan-cog-test/contained:latest"

pytestmark = pytest.mark.anyio
Make = Callable[..., ServerContainer]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def image(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    context = tmp_path_factory.mktemp("contained") / "contained"
    shutil.copytree(TOY, context)
    schema.write(context / schema.SCHEMA_FILE, root=context)
    packages = " ".join(f"{name}=={version(name)}" for name in ("cog", "coglet"))
    with connected() as client:
        arguments = {"BASE_IMAGE": base_image, "PACKAGES": packages}
        client.images.build(path=str(context), tag=IMAGE, buildargs=arguments, rm=True)
    return IMAGE


@pytest.fixture
async def make(image: str, tmp_path: Path) -> AsyncIterator[Make]:
    """A factory of containers, which are gone in the end."""
    made: list[ServerContainer] = []
    replica = f"test-{uuid.uuid4().hex[:8]}"

    def one(**options: Any) -> ServerContainer:  # noqa: ANN401 # ServerContainer's own fields
        settings: dict[str, Any] = {"image": image, "logs": tmp_path / "log", "replica": replica, "stop_timeout_s": 2}
        made.append(ServerContainer(**(settings | options)))
        return made[-1]

    yield one
    for container in made:
        await container.stop()
    left = of_replica(replica)
    for found in left:
        remove(found)
    assert left == []


def of_replica(replica: str) -> list[FoundContainer]:
    return [found for found in find() if found.replica == replica]


async def predict(container: ServerContainer, **inputs: Any) -> Outcome:  # noqa: ANN401 # the toy's inputs
    async with ModelServer(container.url) as server:
        await server.wait_ready(30)
        return await server.run(new_prediction_id(), inputs, timeout_s=30)


def inspected(container: ServerContainer) -> dict[str, Any]:
    with container_of(container) as inside:
        attributes: dict[str, Any] = inside.attrs
    return attributes


# --- a good life ----------------------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_it_starts_answers_and_leaves_nothing_behind(make: Make) -> None:
    container = make()
    assert not await container.alive()
    await container.start()
    assert await container.alive()
    assert (await predict(container)).output == '{"user": 1000, "used": 0}'
    await container.stop()
    assert not await container.alive()
    assert of_replica(container.replica) == []
    await container.stop()  # harmless


@pytest.mark.docker
async def test_the_model_can_write_nowhere_but_to_tmp_and_holds_no_privilege(make: Make) -> None:
    container = make()
    await container.start()
    status = dict(
        line.split(":\t", 1) for line in (await predict(container, read="/proc/self/status")).output.splitlines()
    )
    assert {int(status[key], 16) for key in status if key.startswith("Cap")} == {0}
    assert status["NoNewPrivs"] == "1"
    for place in "/src/new", "/etc/new", "/home/new":
        failed = await predict(container, write=place)
        assert (failed.status, "Read-only file system" in str(failed.error)) == ("failed", True)
    assert (await predict(container, write="/tmp/new", read="/tmp/new")).output == "written"


@pytest.mark.docker
async def test_nobody_but_this_machine_can_reach_it(make: Make) -> None:
    container = make()
    await container.start()
    bindings = inspected(container)["NetworkSettings"]["Ports"]["5000/tcp"]
    assert [binding["HostIp"] for binding in bindings] == ["127.0.0.1"]


@pytest.mark.docker
async def test_limits_reach_the_engine(make: Make) -> None:
    container = make(memory_bytes=256 << 20, shm_bytes=64 << 20, tmp_bytes=32 << 20)
    await container.start()
    limits = inspected(container)["HostConfig"]
    assert (limits["Memory"], limits["ShmSize"]) == (256 << 20, 64 << 20)
    assert (await predict(container, read="/proc/self/mounts")).output.count("size=32768k") == 1


@pytest.mark.docker
async def test_a_fixed_port_is_the_one_asked_for(make: Make) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    container = make(port=port)
    await container.start()
    assert container.url == f"http://127.0.0.1:{port}"
    assert (await predict(container)).status == "succeeded"


@pytest.mark.docker
async def test_mounted_weights_are_seen_and_cannot_be_changed(make: Make, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "manifest.toml").write_text("one list")
    container = make(weights=weights)
    await container.start()
    assert (await predict(container, read="/src/weights/manifest.toml")).output == "one list"
    assert "Read-only" in str((await predict(container, write="/src/weights/manifest.toml")).error)


@pytest.mark.docker
async def test_logs_arrive_while_it_runs_and_are_kept_across_restarts(make: Make) -> None:
    container = make()
    for life in 1, 2:
        await container.start()
        await predict(container)
        await eventually(lambda: container.logs.read_text().count("predicting") == life)  # noqa: B023 # at once
    assert container.logs.read_text().count("Server ready") == 2


@pytest.mark.docker
async def test_scratch_files_of_a_finished_prediction_can_be_discarded(make: Make) -> None:
    container = make()
    await container.start()
    async with ModelServer(container.url) as server:
        await server.wait_ready(30)
        await server.run("one", {}, timeout_s=30)
    assert directories_in(container) == ["one"]
    await container.discard("../../src")  # not an id: nothing is done
    await container.discard("one")
    assert directories_in(container) == []
    await container.discard("one")


def directories_in(container: ServerContainer) -> list[str]:
    with container_of(container) as inside:
        listing: str = inside.exec_run(["ls", "/tmp/coglet/predictions"]).output.decode()
    return listing.split()


@pytest.mark.docker
async def test_the_peak_of_memory_is_the_worker_s_too_and_stays(make: Make) -> None:
    container = make()
    with pytest.raises(DockerError, match="does not tell how much memory"):
        await container.peak_bytes()
    await container.start()
    await predict(container)
    before = await container.peak_bytes()
    await predict(container, allocate_mib=100)
    assert await container.peak_bytes() - before > 90 << 20


@pytest.mark.docker
async def test_a_new_harness_finds_the_containers_of_one_that_is_gone(make: Make) -> None:
    container = make()
    await container.start()
    [found] = of_replica(container.replica)
    assert (found.image, found.status, found.url) == (IMAGE, "running", container.url)
    remove(found)
    assert of_replica(container.replica) == []
    remove(found)
    assert not await container.alive()


# --- what cannot be started -----------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_a_port_that_is_taken_is_named_and_nothing_stays_behind(make: Make) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        container = make(port=port)
        with pytest.raises(PortTaken, match=f"{port}.*choose another with --port"):
            await container.start()
    assert of_replica(container.replica) == []


@pytest.mark.docker
async def test_an_image_that_was_never_built_is_named(make: Make) -> None:
    assert has_image(IMAGE)
    assert not has_image("gfpgan-cog-test/absent")
    with pytest.raises(ImageMissing, match="no image gfpgan-cog-test/absent; build it: make image"):
        await make(image="gfpgan-cog-test/absent").start()


@pytest.mark.docker
@pytest.mark.parametrize("gpus", ["all", (0, 1)])
async def test_without_a_gpu_it_says_so_offers_the_cpu_and_leaves_nothing(
    make: Make, engine: Engine, gpus: str | tuple[int, ...]
) -> None:
    if engine.gpus:
        pytest.skip("this engine can give a container a GPU")
    container = make(gpus=gpus)
    with pytest.raises(GpuMissing, match="--gpus none"):
        await container.start()
    assert of_replica(container.replica) == []


@pytest.mark.docker
async def test_a_container_that_ends_by_itself_is_explained(make: Make) -> None:
    container = make(environment={"COG_PREDICT_TYPE_STUB": ""})  # Cog ends without it
    with contextlib.suppress(DockerError):  # raised when it ended before its port could be read
        await container.start()
        await eventually(container.diagnosis)
        assert "exit code 1" in str(await container.diagnosis())


@pytest.mark.docker
async def test_a_start_that_is_cancelled_leaves_nothing_behind(make: Make) -> None:
    container = make()
    starting = asyncio.create_task(container.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    await container.stop()
    assert of_replica(container.replica) == []


async def test_without_an_engine_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
    container = ServerContainer("any", tmp_path / "log")
    with pytest.raises(EngineMissing, match="--runtime process"):
        await container.start()
    with pytest.raises(EngineMissing):
        describe_engine()
    await container.stop()


# --- deaths ---------------------------------------------------------------------------------------------------------


@pytest.mark.docker
async def test_a_worker_killed_for_memory_is_explained_in_one_sentence(make: Make) -> None:
    container = make(memory_bytes=128 << 20)
    await container.start()
    with pytest.raises(HarnessError):
        await predict(container, allocate_mib=512)
    assert await container.alive()  # which is why the engine's events must be asked
    reason = await container.diagnosis()
    assert isinstance(reason, OutOfMemory)
    assert "limit of 128 MiB" in str(reason)
    await container.stop()
    assert str(reason) in container.logs.read_text()


@pytest.mark.docker
async def test_a_healthy_container_has_no_diagnosis(make: Make) -> None:
    container = make()
    await container.start()
    await predict(container)
    assert await container.diagnosis() is None


@pytest.mark.docker
async def test_a_container_killed_in_the_middle_fails_that_prediction_and_is_replaced(make: Make) -> None:
    container = make()
    patience = Patience(watch_every_s=0.2, first_pause_s=0.1, setup_s=30)
    async with Supervisor(container, patience=patience) as supervisor:
        await supervisor.ready()
        first = container.name
        running = asyncio.create_task(supervisor.run(new_prediction_id(), {"sleep_s": 60}))
        await eventually(lambda: "predicting" in container.logs.read_text())
        with container_of(container) as inside:
            inside.kill()
        with pytest.raises(HarnessError):
            await running
        after = await supervisor.run(new_prediction_id(), {})
        assert (after.status, supervisor.state.restarts) == ("succeeded", 1)
        assert container.name != first
    assert "exit code 137" in container.logs.read_text()


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [("all", "all"), ("none", "none"), ("0", (0,)), ("0,2,13", (0, 2, 13))])
def test_gpus_are_read_as_docker_users_write_them(text: str, expected: str | tuple[int, ...]) -> None:
    assert parse_gpus(text) == expected


@pytest.mark.parametrize("text", ["", "some", "0,", "-1", "0 1", "all,0", "device=0"])
def test_anything_else_for_gpus_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="all, none, or indices"):
        parse_gpus(text)
