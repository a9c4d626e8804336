"""Cog never restarts what died: the supervisor does, or gives up loudly, and no prediction is lost silently."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from toy_models import PHOTO_URL, Toy, ToyMaker, eventually

from harness.errors import Crashed, NotReady, SchemaError, SetupFailed, TimedOut
from harness.model_server.client import ModelServer, Outcome, new_prediction_id
from harness.model_server.process import COG_SCRATCH, SWEEP_AGE_S
from harness.model_server.receiver import Receiver
from harness.model_server.supervisor import Patience, Supervisor

pytestmark = pytest.mark.anyio

QUICK = Patience(setup_s=30, prediction_s=30, release_s=1, silence_s=2, watch_every_s=0.1, first_pause_s=0.05)


async def run(supervisor: Supervisor, **more: object) -> Outcome:
    return await supervisor.run(new_prediction_id(), {"img": PHOTO_URL} | more)


def phase(supervisor: Supervisor) -> str:
    return supervisor.state.phase


async def begin(supervisor: Supervisor, model: Toy, **more: object) -> asyncio.Task[Outcome]:
    """Start a prediction and return once the predictor is inside it."""
    before = len(model.marked("started"))
    task = asyncio.create_task(run(supervisor, **more))
    await eventually(lambda: len(model.marked("started")) > before)
    return task


def kill_server(model: Toy) -> None:
    assert model.process.pid is not None
    os.kill(model.process.pid, signal.SIGKILL)


def kill_worker(model: Toy) -> None:
    assert model.process.pid is not None
    for worker in psutil.Process(model.process.pid).children():
        worker.kill()


def freeze_server(model: Toy) -> None:
    assert model.process.pid is not None
    os.kill(model.process.pid, signal.SIGSTOP)


async def test_predictions_run_one_after_the_other_in_order(toy: ToyMaker) -> None:
    model = toy()
    async with Supervisor(model.process, patience=QUICK) as supervisor:
        outcomes = await asyncio.gather(*(run(supervisor, seconds=0.05) for _ in range(10)))
        assert {outcome.status for outcome in outcomes} == {"succeeded"}
        assert phase(supervisor) == "ready"
    assert phase(supervisor) == "stopped"
    with pytest.raises(NotReady):
        await supervisor.ready()


@pytest.mark.parametrize("kill", [kill_worker, kill_server])
async def test_a_death_in_the_middle_fails_that_prediction_and_no_other(toy: ToyMaker, kill: object) -> None:
    model = toy()
    assert callable(kill)
    async with Supervisor(model.process, patience=QUICK) as supervisor:
        task = await begin(supervisor, model, seconds=60)
        waiting = asyncio.create_task(run(supervisor))
        kill(model)
        with pytest.raises(Crashed):
            await task
        assert (await waiting).status == "succeeded"
        assert supervisor.state.restarts == 1
    assert len(model.marked("started")) == 2, "nothing was run twice"


@pytest.mark.parametrize("kill", [kill_worker, kill_server])
async def test_a_death_while_idle_is_noticed_without_a_prediction(toy: ToyMaker, kill: object) -> None:
    model = toy()
    assert callable(kill)
    async with Supervisor(model.process, patience=QUICK) as supervisor:
        await supervisor.ready()
        kill(model)
        await eventually(lambda: len(model.marked("setup")) == 2)
        assert (await run(supervisor)).status == "succeeded"


async def test_a_server_that_no_longer_answers_is_replaced(toy: ToyMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.model_server.client.HEALTH_TIMEOUT_S", 0.5)
    model = toy(stop_timeout_s=0.2)
    async with Supervisor(model.process, patience=QUICK) as supervisor:
        task = await begin(supervisor, model, seconds=60)
        freeze_server(model)
        with pytest.raises(Crashed):
            await task
        assert (await run(supervisor)).status == "succeeded"


async def test_a_prediction_that_cannot_be_cancelled_costs_a_restart_not_the_service(toy: ToyMaker) -> None:
    model = toy(stop_timeout_s=0.2)
    async with Supervisor(model.process, patience=QUICK) as supervisor:
        with pytest.raises(TimedOut):
            await supervisor.run(new_prediction_id(), {"img": PHOTO_URL, "act": "spin"}, timeout_s=0.5)
        assert (await run(supervisor)).status == "succeeded"
        assert supervisor.state.restarts == 1


async def test_cancelling_frees_the_slot_without_a_restart(toy: ToyMaker) -> None:
    model = toy()
    async with Supervisor(model.process, patience=QUICK) as supervisor:
        task = await begin(supervisor, model, seconds=60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await run(supervisor)).status == "succeeded"
        assert supervisor.state.restarts == 0
    assert model.marked("CancelationException")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("setup_fails", "weights missing: toy.pth"), ("setup_dies", "worker crashed"), ("setup_hangs", "timed out")],
)
async def test_a_setup_that_cannot_succeed_is_given_up_loudly(toy: ToyMaker, name: str, reason: str) -> None:
    model = toy(name, setup_timeout_s=1 if name == "setup_hangs" else 60)
    patience = Patience(first_pause_s=0.01, failures_in_a_row=2)
    async with Supervisor(model.process, patience=patience) as supervisor:
        with pytest.raises(SetupFailed, match=f"failed 2 times in a row and was given up: .*{reason}") as caught:
            await supervisor.ready()
        assert str(model.process.logs) in caught.value.__notes__[0]
        assert "coglet" in caught.value.__notes__[0]
        with pytest.raises(SetupFailed):
            await run(supervisor)
        assert supervisor.state.phase == "failed"
        assert not await model.process.alive()


async def test_a_broken_predictor_is_given_up_with_the_reason(toy: ToyMaker) -> None:
    model = toy()
    (model.process.root / "predict.py").write_text("import nonexistent_package\n")
    patience = Patience(first_pause_s=0.01, failures_in_a_row=2)
    async with Supervisor(model.process, patience=patience) as supervisor:
        with pytest.raises(SchemaError, match="nonexistent_package"):
            await supervisor.ready()


async def test_many_crashing_predictions_do_not_end_the_service(toy: ToyMaker) -> None:
    model = toy()
    patience = Patience(watch_every_s=0.1, first_pause_s=0.01, failures_in_a_row=2)
    async with Supervisor(model.process, patience=patience) as supervisor:
        for _ in range(3):
            with pytest.raises(Crashed):
                await run(supervisor, act="die")
        assert (await run(supervisor)).status == "succeeded"


async def test_200_predictions_leave_no_files(toy: ToyMaker, tmp_path: Path) -> None:
    model = toy()
    ids = [new_prediction_id() for _ in range(200)]
    async with Supervisor(model.process, patience=QUICK) as supervisor:
        for name in ids:
            await supervisor.run(name, {"img": PHOTO_URL})
        await run(supervisor)
        temporary = model.process.temporary
        assert temporary is not None
        assert len([path for path in temporary.rglob("*") if path.is_file()]) <= 2
    assert not [name for name in ids if (COG_SCRATCH / name).exists()]
    assert not temporary.exists()


async def test_predictions_sent_past_the_supervisor_leave_no_old_files(toy: ToyMaker) -> None:
    model, old, young = toy(), new_prediction_id(), new_prediction_id()
    async with Supervisor(model.process, patience=replace(QUICK, sweep_every_s=0.2)) as supervisor:
        async with ModelServer((await supervisor.ready()).url) as direct:
            for name in (old, young):
                await direct.run(name, {"img": PHOTO_URL})
        assert (COG_SCRATCH / old).exists()
        os.utime(COG_SCRATCH / old, (0, time.time() - SWEEP_AGE_S - 1))
        await eventually(lambda: not (COG_SCRATCH / old).exists())
        assert (COG_SCRATCH / young).exists()  # it might be another server's, and running
        await model.process.discard(young)


async def test_a_receiver_brings_files_and_the_logs_of_failures(toy: ToyMaker, tmp_path: Path) -> None:
    async with Receiver(tmp_path / "received") as receiver:
        model = toy(upload_url=receiver.upload_url)
        async with Supervisor(model.process, patience=QUICK, receiver=receiver) as supervisor:
            assert (await run(supervisor)).output.startswith("file:///")
            assert (await run(supervisor, seconds=0.1, act="raise")).logs == "step 0\nstep 1\n"


async def test_stopping_the_supervisor_stops_the_server(toy: ToyMaker) -> None:
    model = toy()
    async with Supervisor(model.process, patience=QUICK) as supervisor:
        await supervisor.ready()
        assert await model.process.alive()
    assert not await model.process.alive()
