"""Cog's surprises never reach a caller: no spurious 409, no 200 that means failure, no prediction left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from toy_models import PHOTO_URL, Toy, ToyMaker, eventually

from harness.errors import (
    Busy,
    Crashed,
    InputRejected,
    ModelServerError,
    SetupFailed,
    TimedOut,
    Unreachable,
    UsageError,
)
from harness.model_server.client import ModelServer, Outcome, new_prediction_id

pytestmark = pytest.mark.anyio


async def run(server: ModelServer, **more: object) -> Outcome:
    return await server.run(new_prediction_id(), {"img": PHOTO_URL} | more)


async def test_a_prediction_returns_output_logs_and_metrics(server: ModelServer) -> None:
    outcome = await run(server, seconds=0.1)
    assert (outcome.status, outcome.output, outcome.error) == ("succeeded", PHOTO_URL, None)
    assert outcome.logs == "step 0\nstep 1\n"
    assert outcome.metrics["faces_found"] == 1
    assert outcome.metrics["seconds"] == {"echo": 0.5}


async def test_500_back_to_back_predictions_show_no_409(server: ModelServer) -> None:
    for _ in range(500):
        assert (await run(server)).status == "succeeded"


async def test_a_failed_prediction_is_an_outcome_with_the_plain_reason(server: ModelServer) -> None:
    outcome = await run(server, act="raise")
    assert (outcome.status, outcome.error) == ("failed", "RuntimeError: asked to fail")


async def test_every_forbidden_input_is_named(server: ModelServer) -> None:
    with pytest.raises(InputRejected) as caught:
        await run(server, scale=9, act="sing")
    assert "scale: 9 is greater than the maximum of 4" in str(caught.value)
    assert 'act: "sing" is not one of' in str(caught.value)


async def test_a_request_over_100_mib_is_refused_with_the_limit(server: ModelServer) -> None:
    with pytest.raises(InputRejected, match="100 MiB"):
        await server.run(new_prediction_id(), {"img": "data:image/png;base64," + "A" * (101 << 20)})


async def test_logs_arrive_while_it_runs_in_order_and_once(server: ModelServer) -> None:
    pieces: list[str] = []
    outcome = await server.run(new_prediction_id(), {"img": PHOTO_URL, "seconds": 1.5}, on_logs=pieces.append)
    assert len(pieces) > 1
    assert "".join(pieces) == outcome.logs == "".join(f"step {n}\n" for n in range(30))


async def test_a_failure_keeps_the_logs_that_were_heard(server: ModelServer) -> None:
    pieces: list[str] = []
    body = {"img": PHOTO_URL, "seconds": 1.2, "act": "raise"}
    outcome = await server.run(new_prediction_id(), body, on_logs=pieces.append)
    assert outcome.logs.startswith("step 0\n")
    assert "".join(pieces) == outcome.logs


async def test_a_listener_that_raises_is_not_ignored(server: ModelServer) -> None:
    def listen(text: str) -> None:
        raise LookupError(text)

    with pytest.raises(LookupError):
        await server.run(new_prediction_id(), {"img": PHOTO_URL, "seconds": 0.8}, on_logs=listen)


async def test_asking_for_logs_never_starts_a_run(server: ModelServer, echo: Toy) -> None:
    before = len(echo.marked("started"))
    assert await server.logs_of(new_prediction_id()) is None
    assert len(echo.marked("started")) == before


async def test_a_model_without_required_inputs_is_never_asked_for_logs(toy: ToyMaker) -> None:
    model = toy("no_required")
    await model.process.start()
    async with ModelServer(model.process.url) as server:
        await server.wait_ready(30)
        pieces: list[str] = []
        outcome = await server.run(new_prediction_id(), {"seconds": 1}, on_logs=pieces.append)
        assert await server.logs_of(new_prediction_id()) is None
    assert (outcome.output, pieces) == ("done", ["running\n"])
    assert (model.marks / "runs").read_text() == "x"


async def test_cancelling_the_task_cancels_the_prediction(server: ModelServer, echo: Toy) -> None:
    before, started = len(echo.marked("CancelationException")), len(echo.marked("started"))
    task = asyncio.create_task(run(server, seconds=60))
    await eventually(lambda: len(echo.marked("started")) > started)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: len(echo.marked("CancelationException")) > before)
    assert (await run(server)).status == "succeeded"


async def test_a_prediction_over_its_time_limit_is_cancelled(server: ModelServer, echo: Toy) -> None:
    before = len(echo.marked("CancelationException"))
    with pytest.raises(TimedOut, match=r"0\.3 s"):
        await server.run(new_prediction_id(), {"img": PHOTO_URL, "seconds": 60}, timeout_s=0.3)
    await eventually(lambda: len(echo.marked("CancelationException")) > before)


async def test_cancel_by_id_ends_the_run_as_canceled(server: ModelServer, echo: Toy) -> None:
    started, name = len(echo.marked("started")), new_prediction_id()
    task = asyncio.create_task(server.run(name, {"img": PHOTO_URL, "seconds": 60}))
    await eventually(lambda: len(echo.marked("started")) > started)
    assert await server.cancel(name)
    assert (await task).status == "canceled"
    assert not await server.cancel(name)


async def test_a_slot_that_somebody_else_holds_is_busy(
    server: ModelServer, echo: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.model_server.client.SLOT_WAIT_S", 0.2)
    started = len(echo.marked("started"))
    other = asyncio.create_task(run(server, seconds=60))
    await eventually(lambda: len(echo.marked("started")) > started)
    with pytest.raises(Busy):
        await run(server)
    assert (await server.health()).status == "BUSY"
    other.cancel()
    await asyncio.wait([other])


@pytest.mark.parametrize("name", ["", "../../etc", "a/b", "a b", "x" * 65, "é", "a\n"])
async def test_an_id_that_is_no_plain_name_is_refused(server: ModelServer, name: str) -> None:
    with pytest.raises(UsageError):
        await server.run(name, {"img": PHOTO_URL})


async def test_a_dead_worker_is_a_crash_then_and_afterwards(toy: ToyMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.model_server.client.SLOT_WAIT_S", 0.2)
    model = toy()
    await model.process.start()
    async with ModelServer(model.process.url) as server:
        await server.wait_ready(30)
        with pytest.raises(Crashed):
            await run(server, act="die")
        assert (await server.health()).worker_gone
        with pytest.raises(Crashed):
            await run(server)
        with pytest.raises(Crashed):
            await server.wait_ready(5)


async def test_a_server_killed_in_the_middle_is_a_crash(toy: ToyMaker) -> None:
    model = toy(stop_timeout_s=0.1)
    await model.process.start()
    async with ModelServer(model.process.url) as server:
        await server.wait_ready(30)
        task = asyncio.create_task(run(server, seconds=60))
        await eventually(lambda: model.marked("started"))
        await model.process.stop()
        with pytest.raises(Crashed):
            await task
        with pytest.raises(Unreachable):
            await server.health()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("setup_fails", "RuntimeError: weights missing: toy.pth"), ("setup_dies", "worker crashed")],
)
async def test_a_failed_setup_says_why(toy: ToyMaker, name: str, reason: str) -> None:
    model = toy(name)
    await model.process.start()
    async with ModelServer(model.process.url) as server:
        with pytest.raises(SetupFailed, match=f"setup failed: {reason}"):
            await server.wait_ready(30)
        with pytest.raises(SetupFailed):
            await run(server)


async def test_a_setup_that_never_ends_fails_at_its_limit(toy: ToyMaker) -> None:
    model = toy("setup_hangs", setup_timeout_s=1)
    await model.process.start()
    async with ModelServer(model.process.url) as server:
        with pytest.raises(SetupFailed, match="timed out"):
            await server.wait_ready(30)


async def test_nothing_there_is_unreachable_within_the_wait() -> None:
    async with ModelServer("http://127.0.0.1:9") as server:
        with pytest.raises(Unreachable, match="start one"):
            await server.wait_ready(0.2)


async def test_something_else_there_is_told_apart(unused_http: str) -> None:
    async with ModelServer(unused_http) as server:
        with pytest.raises(ModelServerError, match="no Cog model server"):
            await server.health()


@pytest.fixture
async def unused_http() -> AsyncIterator[str]:
    """A web server that is no model server."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        await writer.drain()
        writer.close()

    web = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{web.sockets[0].getsockname()[1]}"
    web.close()
    await web.wait_closed()
