"""A native model server leaves nothing behind, however it or the harness ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from toy_models import PHOTO_URL, ToyMaker, eventually

from harness.errors import Crashed, SchemaError
from harness.model_server.client import ModelServer, new_prediction_id
from harness.model_server.process import COG_SCRATCH, SCHEMA
from harness.model_server.receiver import Receiver
from harness.model_server.runtime import last_lines

pytestmark = pytest.mark.anyio


def group_of(leader: int) -> list[int]:
    """Process ids of the group that `leader` leads, without those that have ended."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except ProcessLookupError:
            continue
    return found


async def test_inputs_are_validated_because_the_schema_is_written_first(toy: ToyMaker) -> None:
    model = toy()
    await model.process.start()
    assert (model.process.root / SCHEMA).is_file()
    async with ModelServer(model.process.url) as server:
        assert "Input validation enabled (1 required fields)" in (await server.wait_ready(30)).setup_logs


async def test_a_fixed_port_is_used(toy: ToyMaker, unused_tcp_port: int) -> None:
    model = toy(port=unused_tcp_port)
    await model.process.start()
    assert model.process.url == f"http://127.0.0.1:{unused_tcp_port}"
    async with ModelServer(model.process.url) as server:
        await server.wait_ready(30)


@pytest.fixture
def unused_tcp_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_predictor_that_cannot_be_described_is_named_before_anything_starts(toy: ToyMaker) -> None:
    model = toy()
    (model.process.root / "predict.py").write_text("import nonexistent_package\n")
    with pytest.raises(SchemaError, match="nonexistent_package"):
        await model.process.start()
    assert not await model.process.alive()


async def test_stop_ends_server_and_worker_and_removes_the_temporary_directory(toy: ToyMaker) -> None:
    model = toy()
    await model.process.start()
    async with ModelServer(model.process.url) as server:
        await server.wait_ready(30)
    leader = model.process.pid
    assert leader is not None
    assert len(group_of(leader)) == 2
    work = model.process.temporary
    assert work is not None
    assert list(work.iterdir()), "the toy's work directory is in there"
    await model.process.stop()
    await eventually(lambda: group_of(leader) == [])
    assert not work.exists()
    assert not await model.process.alive()
    await model.process.stop()


async def test_the_peak_of_memory_is_the_server_s_and_the_worker_s(toy: ToyMaker) -> None:
    model = toy()
    with pytest.raises(Crashed, match="process has ended"):
        await model.process.peak_bytes()
    await model.process.start()
    async with ModelServer(model.process.url) as server:
        await server.wait_ready(30)
    now = [psutil.Process(pid).memory_info().rss for pid in group_of(model.process.pid or 0)]
    assert len(now) == 2
    assert sum(now) * 0.9 < await model.process.peak_bytes() < 5 * sum(now)


async def test_stop_lets_a_running_prediction_finish(toy: ToyMaker) -> None:
    model = toy(stop_timeout_s=20)
    await model.process.start()
    async with ModelServer(model.process.url) as server:
        await server.wait_ready(30)
        task = asyncio.create_task(server.run(new_prediction_id(), {"img": PHOTO_URL, "seconds": 1}))
        await eventually(lambda: model.marked("started"))
        await model.process.stop()
        assert (await task).status == "succeeded"


async def test_stop_is_bounded_when_the_model_holds_the_interpreter(toy: ToyMaker) -> None:
    model = toy(stop_timeout_s=0.5)
    await model.process.start()
    async with ModelServer(model.process.url) as server:
        await server.wait_ready(30)
        task = asyncio.create_task(server.run(new_prediction_id(), {"img": PHOTO_URL, "act": "spin"}))
        await eventually(lambda: model.marked("started"))
        leader = model.process.pid
        assert leader is not None
        await model.process.stop()
        await eventually(lambda: group_of(leader) == [])
        await asyncio.wait([task])
        assert task.exception() is not None


HARNESS = """
import asyncio, sys
from pathlib import Path
from harness.model_server.process import ServerProcess

async def main():
    process = ServerProcess(root=Path(sys.argv[1]), logs=Path(sys.argv[2]))
    await process.start()
    print(process.pid, process.url, process.temporary, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["setup", "ready", "running"])
async def test_a_killed_harness_leaves_no_cog_process(toy: ToyMaker, tmp_path: Path, moment: str) -> None:
    root = toy("setup_hangs" if moment == "setup" else "echo").process.root
    harness = subprocess.Popen(
        [sys.executable, "-c", HARNESS, root, tmp_path / "log"], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert harness.stdout is not None
    pid, url, temporary = (await asyncio.to_thread(harness.stdout.readline)).split()
    await eventually(lambda: len(group_of(int(pid))) == 2)
    if moment != "setup":
        async with ModelServer(url) as server:
            await server.wait_ready(30)
            act = "spin" if moment == "running" else "echo"
            task = asyncio.create_task(server.run(new_prediction_id(), {"img": PHOTO_URL, "act": act}))
            await asyncio.wait([task], timeout=0.5)
            harness.send_signal(signal.SIGKILL)
            await asyncio.wait([task])
            task.exception()
    harness.kill()
    harness.wait()
    harness.stdout.close()
    await eventually(lambda: group_of(int(pid)) == [])
    assert not Path(temporary).exists()


async def test_scratch_files_do_not_grow_over_200_predictions(toy: ToyMaker) -> None:
    model = toy()
    await model.process.start()
    temporary = model.process.temporary
    assert temporary is not None
    ids = [new_prediction_id() for _ in range(200)]
    async with ModelServer(model.process.url) as server:
        await server.wait_ready(30)
        sizes = []
        for name in ids:
            await server.run(name, {"img": PHOTO_URL})
            await model.process.discard(name)
            sizes.append(sum(1 for _ in temporary.rglob("*")))
    assert max(sizes[1:]) <= sizes[0] + 1, "one input file may be on its way out"
    assert not [name for name in ids if (COG_SCRATCH / name).exists()]


async def test_large_files_and_failed_logs_come_by_the_receiver(toy: ToyMaker, tmp_path: Path) -> None:
    async with Receiver(tmp_path / "received") as receiver:
        model = toy(upload_url=receiver.upload_url)
        await model.process.start()
        async with ModelServer(model.process.url, receiver) as server:
            await server.wait_ready(30)
            done = await server.run("first", {"img": PHOTO_URL})
            assert done.output.startswith((tmp_path / "received" / "first").as_uri())
            pieces: list[str] = []
            failed = await server.run(
                "second", {"img": PHOTO_URL, "seconds": 0.1, "act": "raise"}, on_logs=pieces.append
            )
    assert failed.logs == "".join(pieces) == "step 0\nstep 1\n"


async def test_the_log_file_has_what_the_model_printed(toy: ToyMaker) -> None:
    model = toy()
    await model.process.start()
    async with ModelServer(model.process.url) as server:
        await server.wait_ready(30)
    await model.process.stop()
    assert "loading weights toy.pth" in last_lines(model.process.logs, 100)
    assert last_lines(model.process.logs, 1).count("\n") == 0
    assert last_lines(model.process.logs.with_name("none")) == ""
