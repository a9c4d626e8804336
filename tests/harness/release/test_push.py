"""The push: what it promises, and that every failure leaves a state from which the same command finishes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from faulty_proxy import Fault
from push_world import MODEL, PASSED, TOKEN, World
from replicate_in_thread import Model
from replicate_processes import until

from harness import schema
from harness.errors import (
    CredentialRefused,
    DigestDiffers,
    GateFailed,
    HarnessError,
    NotPrivate,
    PredictionFailed,
    RegistryFailed,
    ReplicateFailed,
    SchemaDiffers,
    SmokeFailed,
    UsageError,
    VersionMissing,
)
from harness.release import releases
from harness.release.account import Account
from harness.release.findings import Finding, Report
from harness.release.push import plan, push
from harness.replicate.registry_watch import Pushed

pytest_plugins = ["push_fixtures"]

LABEL = "run.cog.openapi_schema"


def test_it_creates_a_private_model_and_records_the_version(world: World) -> None:
    release = world.push(hardware="gpu-l40s")
    shown = world.model()
    assert (shown["visibility"], shown["latest_version"]["id"]) == ("private", release.version)
    assert release.digest == world.registry.tags[MODEL] == f"sha256:{release.version}"
    assert release.schema == schema.openapi_schema(root=world.root)
    assert releases.read(world.root / "releases.toml") == [release]
    assert (release.checks, release.figures) == ({"schema": "passed"}, {"setup_s": 1.5})
    assert any("setup and idle time" in text and "gpu-l40s" in text for text in world.person.said)


def test_the_same_image_again_is_no_error_and_no_second_release(world: World) -> None:
    first = world.push()
    second = world.push(report=replace(PASSED, figures={"setup_s": 9.0}))
    assert second == first
    assert releases.read(world.root / "releases.toml") == [first]
    assert any("already there" in text for text in world.person.said)


def test_a_change_makes_a_second_release_which_becomes_the_live_one(world: World) -> None:
    first = world.push()
    predictor = world.root / "predict.py"
    predictor.write_text(predictor.read_text().replace("Said again", "Said once more"))
    second = world.push()
    known = releases.read(world.root / "releases.toml")
    assert [(one.version, one.live) for one in known] == [(first.version, False), (second.version, True)]


def test_behind_a_closed_gate_nothing_happens(world: World) -> None:
    finding = Finding("INPUT_REMOVED", "breaking", "predict.py", "The input scale is gone.")
    with pytest.raises(GateFailed, match="1 breaking change"):
        world.push(report=Report(findings=[finding]))
    assert world.model()["status"] == 404
    assert world.registry.pushes == 0


def test_the_gate_compares_with_the_recorded_live_version_else_with_the_newest(world: World) -> None:
    asked: list[object] = []

    def gate(live: object) -> Report:
        asked.append(live)
        return Report()

    for _ in range(2):
        push(world.request(), world.account, gate, world.person)
    (world.root / "releases.toml").unlink()
    push(world.request(), world.account, gate, world.person)
    document = schema.openapi_schema(root=world.root)
    assert asked == [None, document, document]


def test_a_dry_run_tells_the_steps_and_changes_nothing(world: World) -> None:
    steps = "\n".join(plan(world.request(), world.account))
    assert f"{MODEL} is created, private, on gpu-t4" in steps
    assert f"{world.registry.host}/{MODEL}" in steps
    assert world.model()["status"] == 404
    assert world.registry.pushes == 0


def test_a_name_that_is_none_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        world.push(model="toy")


# --- faults: each is told clearly, and the same command finishes later ------------------------------------------------


def fails_then_finishes(
    world: World,
    error: type[HarnessError],
    match: str,
    mend: Callable[[], object],
    **options: Any,  # noqa: ANN401 - Request's
) -> None:
    """Push, see it fail as expected without a record, mend the cause, push again: one release."""
    with pytest.raises(error, match=match):
        world.push(**options)
    assert not (world.root / "releases.toml").exists()
    mend()
    release = world.push()
    assert [one.version for one in releases.read(world.root / "releases.toml")] == [release.version]
    assert world.model()["latest_version"]["id"] == release.version


def test_the_registry_goes_down_in_the_middle(world: World) -> None:
    world.registry.down = 3

    def mend() -> None:
        world.registry.down = 0

    fails_then_finishes(world, RegistryFailed, "run the same command again", mend)


def test_a_short_failure_of_the_registry_is_waited_out(world: World) -> None:
    world.registry.down = 2
    world.push()
    assert world.registry.pushes == 3


@pytest.mark.parametrize("path", ["/v1/account", f"/v1/models/{MODEL}", "/versions/"])
def test_the_api_fails_when_it_is_read(world: World, path: str) -> None:
    world.proxy.faults = [Fault("GET", path, times=100)]
    fails_then_finishes(world, ReplicateFailed, "failed with 500", world.proxy.faults.clear)


def test_the_api_fails_when_the_model_is_created(world: World) -> None:
    world.proxy.faults = [Fault("POST", "/v1/models", times=100)]
    fails_then_finishes(world, ReplicateFailed, "failed with 500", world.proxy.faults.clear)


def test_a_short_failure_of_the_api_is_waited_out(world: World) -> None:
    world.proxy.faults = [Fault("GET", "/v1/models", times=2), Fault("POST", "/v1/models", times=2)]
    assert world.push().version


def test_an_answer_to_the_creation_that_was_lost_is_no_conflict(world: World) -> None:
    world.proxy.faults = [Fault("POST", "/v1/models", times=1, after=True)]
    world.push()
    assert world.proxy.seen.count("POST /v1/models") == 2  # the second was answered with 409
    assert world.model()["visibility"] == "private"


def test_a_model_that_somebody_creates_meanwhile_is_looked_at(world: World) -> None:
    world.create("public")
    world.proxy.faults = [Fault("GET", f"/v1/models/{MODEL}", times=2, status=404)]  # the gate's and ours, too early
    with pytest.raises(NotPrivate):
        world.push()
    assert "POST /v1/models" in world.proxy.seen
    assert world.registry.pushes == 0


def test_a_wrong_token_is_told_with_the_command_and_not_shown(
    world: World, account_with: Callable[[str], Account]
) -> None:
    with pytest.raises(CredentialRefused) as refused:
        world.push(account=account_with("r8_not_the_right_one"))
    assert "export REPLICATE_API_TOKEN=r8_..." in str(refused.value)
    assert "not_the_right_one" not in str(refused.value)
    assert world.push(account=account_with(TOKEN)).version


def test_the_version_never_appears(world: World) -> None:
    world.registry.drops = True

    def mend() -> None:
        world.registry.drops = False

    fails_then_finishes(world, VersionMissing, "did not appear within 0 s", mend, appears_s=0.2)


def test_another_version_appears_than_the_one_that_was_pushed(world: World) -> None:
    world.registry.lies = f"sha256:{'0' * 64}"

    def mend() -> None:
        world.registry.lies = ""

    fails_then_finishes(world, DigestDiffers, "0{64} was pushed", mend)


def test_what_an_earlier_push_left_in_the_registry_is_no_other_version(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a second rehearsal: its image is taken up while the new one is pushed."""
    monkeypatch.setattr("harness.replicate.registry_watch.POLL_S", 0.3)
    document = json.dumps(schema.openapi_schema(root=world.root))
    stale = world.registry.push(MODEL, {LABEL: document, "run.cog.version": "0.23.1"}, "stale")
    pushed = world.registry.pushed

    def slow(model: str, schema: str) -> str:
        until(lambda: world.model()["latest_version"])
        return pushed(model, schema)

    monkeypatch.setattr(world.registry, "pushed", slow)
    assert world.push(appears_s=100).digest != stale


def test_a_public_model_is_refused_unless_that_is_wanted(world: World) -> None:
    world.create("public")
    with pytest.raises(NotPrivate, match="--public-ok"):
        world.push()
    assert world.registry.pushes == 0
    assert world.push(public_ok=True).version


def test_a_version_with_another_schema_is_not_recorded(world: World) -> None:
    document = schema.openapi_schema(root=world.root)
    del document["components"]["schemas"]["Input"]["properties"]["text"]
    world.registry.schema = json.dumps(document)

    def mend() -> None:
        world.registry.schema = ""

    fails_then_finishes(world, SchemaDiffers, "does not have this folder's schema", mend)


def test_a_refused_registry_login_is_told_with_its_own_command(world: World) -> None:
    program = world.root.parent / "bin" / "cog"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && { echo cog version 0.23.1; exit; }\necho unauthorized >&2; exit 1\n'
    )
    with pytest.raises(CredentialRefused, match="docker login"):
        world.push()


# --- the smoke prediction ---------------------------------------------------------------------------------------------


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Model:
    """What answers the predictions of pushed versions, in place of a container of their image."""
    model = Model(output="hello")

    async def server(pushed: Pushed, version: str) -> Model:
        return model

    monkeypatch.setattr(Pushed, "server", server)
    return model


def test_it_must_give_what_this_folders_model_gives(world: World, played: Model) -> None:
    world.push()
    world.person.said.clear()
    world.push(smoke="yes", inputs={"text": "hello"})
    assert "setup and idle time" in next(text for text in world.person.said if "smoke" in text)  # said before it is run
    assert played.inputs == [{"text": "hello"}]
    assert any("gives what this folder's model gives: equal" in text for text in world.person.said)


def test_another_output_is_no_release_until_it_is_the_same(world: World, played: Model) -> None:
    played.output = "something else"
    with pytest.raises(SmokeFailed, match="something else than this folder's model: different"):
        world.push(smoke="yes")
    assert not (world.root / "releases.toml").exists()
    played.output = "hello"
    release = world.push(smoke="yes")
    assert releases.read(world.root / "releases.toml") == [release]


def test_a_smoke_prediction_that_fails_is_told_with_its_reason(world: World, played: Model) -> None:
    played.losses = [PredictionFailed("no memory left")]
    with pytest.raises(SmokeFailed, match="failed: no memory left"):
        world.push(smoke="yes")


def test_it_runs_when_the_person_agrees(world: World, played: Model) -> None:
    world.person.agrees = True
    world.push(smoke="ask")
    assert len(played.ran) == 1


def test_an_input_that_it_needs_is_asked_for_before_anything_is_done(world: World) -> None:
    predictor = world.root / "predict.py"
    predictor.write_text(predictor.read_text().replace(', default="hello"', ""))
    with pytest.raises(UsageError, match="needs text; give it like"):
        world.push(smoke="yes")
    assert world.proxy.seen == []
    world.push(smoke="ask")
    assert world.person.asked == []
    assert any("No smoke prediction without text" in text for text in world.person.said)


def test_it_is_asked_for_with_its_costs_and_may_be_declined(world: World) -> None:
    world.push(smoke="ask")
    assert len(world.person.asked) == 1
    assert "setup and idle time" in world.person.asked[0]
    assert not any("predictions" in seen for seen in world.proxy.seen)
