"""The queue: order, turns, cancelling, deadlines, lost model servers, bounds, rehearsals."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from replicate_in_thread import Model, replicate
from replicate_processes import until
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from harness.errors import Crashed, InputRejected, SetupFailed, Unreachable
from harness.replicate import predictions
from harness.replicate.settings import Rehearsals


def test_predictions_run_in_the_order_in_which_they_were_accepted(tmp_path: Path) -> None:
    model = Model(holds=True)
    with replicate(tmp_path, model) as server:
        accepted = [server.create().json()["id"] for _ in range(5)]
        until(lambda: model.ran == accepted[:1])  # one slot runs one prediction
        model.released.set()
        server.ended(accepted[-1])
        assert model.ran == accepted


def test_model_servers_take_turns(tmp_path: Path) -> None:
    two = [Model(), Model()]
    with replicate(tmp_path, *two) as server:
        for _ in range(6):
            server.create(headers={"Prefer": "wait"})
        assert [len(model.ran) for model in two] == [3, 3]


def test_two_model_servers_run_two_predictions_at_once(tmp_path: Path) -> None:
    two = [Model(holds=True), Model(holds=True)]
    with replicate(tmp_path, *two) as server:
        first, second = (server.create().json()["id"] for _ in range(2))
        until(lambda: sorted(two[0].ran + two[1].ran) == sorted([first, second]))


def test_cancelling_a_queued_prediction_keeps_it_from_running(tmp_path: Path) -> None:
    model = Model(holds=True)
    with replicate(tmp_path, model) as server:
        running, queued, last = (server.create().json()["id"] for _ in range(3))
        cancelled = server.post(f"/v1/predictions/{queued}/cancel").json()
        assert cancelled["status"] == "canceled"
        assert cancelled["completed_at"]
        model.released.set()
        server.ended(last)
        assert model.ran == [running, last]


def test_cancelling_a_running_prediction_stops_the_model(tmp_path: Path) -> None:
    model = Model(holds=True)
    with replicate(tmp_path, model) as server:
        running = server.create().json()["id"]
        until(lambda: model.ran)
        assert server.post(f"/v1/predictions/{running}/cancel").json()["status"] == "canceled"
        assert model.stopped == [running]
        model.released.set()
        assert server.create(headers={"Prefer": "wait"}).json()["status"] == "succeeded"  # the slot is free again


def test_cancelling_what_has_ended_changes_nothing(tmp_path: Path) -> None:
    with replicate(tmp_path) as server:
        done = server.create(headers={"Prefer": "wait"}).json()
        assert server.post(f"/v1/predictions/{done['id']}/cancel").json() == done


@pytest.mark.parametrize(("strict", "status"), [(False, "canceled"), (True, "aborted")])
def test_a_deadline_ends_a_prediction_that_still_waits(tmp_path: Path, strict: bool, status: str) -> None:
    model = Model(holds=True)
    with replicate(tmp_path, model, strict=strict) as server:
        server.create()
        queued = server.create(headers={"Cancel-After": "5s"}).json()
        assert queued["deadline"] > queued["created_at"]
        assert server.ended(queued["id"])["status"] == status
        assert len(model.ran) == 1


def test_a_deadline_holds_after_a_restart_too(tmp_path: Path) -> None:
    with replicate(tmp_path, Model(holds=True)) as server:
        queued = server.create(headers={"Cancel-After": "5s"}).json()["id"]
    with replicate(tmp_path, Model(holds=True)) as server:
        assert server.ended(queued)["status"] == "canceled"


def test_a_prediction_that_lost_its_model_server_is_tried_once_more(tmp_path: Path) -> None:
    model = Model(losses=[Crashed("The worker died.")])
    with replicate(tmp_path, model) as server:
        made = server.create(headers={"Prefer": "wait"}).json()
        assert made["status"] == "succeeded"
        assert model.ran == [made["id"]] * 2


def test_a_prediction_that_lost_two_model_servers_fails_with_the_reason(tmp_path: Path) -> None:
    model = Model(losses=[Crashed("One died."), Crashed("Another died, out of memory.")])
    with replicate(tmp_path, model) as server:
        made = server.create(headers={"Prefer": "wait"}).json()
        assert made["status"] == "failed"
        assert "lost twice" in made["error"]
        assert "out of memory" in made["error"]


def test_a_model_server_that_cannot_be_reached_costs_no_try(tmp_path: Path) -> None:
    model = Model(losses=[Unreachable("Nobody there.") for _ in range(4)])
    with replicate(tmp_path, model) as server:
        assert server.create(headers={"Prefer": "wait"}).json()["status"] == "succeeded"


def test_what_the_model_server_rejects_fails_with_its_words(tmp_path: Path) -> None:
    with replicate(tmp_path, Model(losses=[InputRejected("scale: 3 is too much")])) as server:
        made = server.create(headers={"Prefer": "wait"}).json()
        assert (made["status"], made["error"]) == ("failed", "scale: 3 is too much")


class Unusable(Model):
    async def wait_ready(self, timeout_s: float) -> object:
        raise SetupFailed("The weights are missing.")


def test_with_no_model_that_can_be_set_up_predictions_fail_with_the_reason(tmp_path: Path) -> None:
    with replicate(tmp_path, Unusable(), Unusable()) as server:
        made = server.create(headers={"Prefer": "wait"}).json()
        assert (made["status"], made["error"]) == ("failed", "The weights are missing.")


def test_one_model_that_cannot_be_set_up_leaves_the_work_to_the_other(tmp_path: Path) -> None:
    with replicate(tmp_path, Unusable(), Model()) as server:
        assert server.create(headers={"Prefer": "wait"}).json()["status"] == "succeeded"


def test_a_full_queue_refuses_and_stores_nothing(tmp_path: Path) -> None:
    model = Model(holds=True)
    with replicate(tmp_path, model, max_queued=2) as server:
        running = server.create().json()["id"]
        until(lambda: model.ran == [running])
        assert [server.create().status_code for _ in range(3)] == [201, 201, 503]
        refused = server.create()
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"]
        assert len(server.get("/v1/predictions").json()["results"]) == 3


def test_what_ran_when_the_server_ended_runs_again(tmp_path: Path) -> None:
    model = Model(holds=True)
    with replicate(tmp_path, model) as server:
        first, second = (server.create().json()["id"] for _ in range(2))
        until(lambda: model.ran == [first])
        assert server.prediction(first)["status"] == "processing"
    assert model.stopped == [first]
    again = Model()
    with replicate(tmp_path, again) as server:
        assert server.ended(first)["status"] == "succeeded"
        assert server.ended(second)["status"] == "succeeded"


def test_trainings_are_accepted_and_fail_with_the_reason(tmp_path: Path) -> None:
    model = Model()
    with replicate(tmp_path, model) as server:
        server.post("/v1/models", json={"owner": "local", "name": "t", "visibility": "private", "hardware": "cpu"})
        version = server.service.served.versions[0]
        url = f"/v1/models/tencentarc/gfpgan/versions/{version}/trainings"
        made = server.post(url, json={"destination": "local/t", "input": {}})
        assert made.status_code == 201
        own = made.json()["urls"]["get"]
        until(lambda: server.get(own).json()["status"] == "failed")
        assert "train()" in server.get(own).json()["error"]
        assert model.ran == []


def test_a_rehearsed_cold_boot_keeps_the_first_prediction_starting(tmp_path: Path) -> None:
    model = Model()
    with replicate(tmp_path, model, rehearsals=Rehearsals(cold_boot_s=0.5)) as server:
        began = time.monotonic()
        waited = server.create(headers={"Prefer": "wait"}).json()
        assert waited["status"] == "succeeded"
        assert time.monotonic() - began >= 0.5
        assert waited["metrics"]["total_time"] >= 0.5


def test_rehearsed_failures_repeat_with_the_seed(tmp_path: Path) -> None:
    def statuses(folder: str) -> list[str]:
        with replicate(tmp_path / folder, rehearsals=Rehearsals(fail_rate=0.5, fail_seed=7)) as server:
            return [server.create(headers={"Prefer": "wait"}).json()["status"] for _ in range(12)]

    first = statuses("one")
    assert set(first) == {"failed", "succeeded"}
    assert statuses("two") == first


def test_a_store_that_fails_for_a_moment_delays_the_queue_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, failures = predictions.claim, [OperationalError("", {}, Exception("database or disk is full"))] * 2

    def failing(connection: Connection) -> predictions.Prediction | None:
        if failures:
            raise failures.pop()
        return claim(connection)

    with replicate(tmp_path) as server:
        monkeypatch.setattr(predictions, "claim", failing)
        assert server.create(headers={"Prefer": "wait"}).json()["status"] == "succeeded"
        assert failures == []


def test_a_defect_in_the_queue_does_not_stop_it_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, failures = predictions.claim, [ZeroDivisionError()]

    def failing(connection: Connection) -> predictions.Prediction | None:
        taken = claim(connection)
        if taken and failures:
            raise failures.pop()
        return taken

    monkeypatch.setattr(predictions, "claim", failing)
    with replicate(tmp_path, Model(), Model(holds=True)) as server:
        made = [server.create().json()["id"] for _ in range(2)]
        until(lambda: all(server.prediction(one)["status"] != "starting" for one in made))
        assert failures == []
