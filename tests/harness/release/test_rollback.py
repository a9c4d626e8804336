"""Rollback: callers learn what to pin, and deployments move only when the person agrees."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_proxy import Fault
from push_world import MODEL, World

from harness.errors import ReplicateFailed, UsageError, VersionMissing
from harness.release import releases
from harness.release.releases import Release
from harness.release.rollback import rollback

pytest_plugins = ["push_fixtures"]


@pytest.fixture
def two(world: World) -> tuple[Release, Release]:
    """Two releases, the second live, and two deployments that run it; one of another model beside them."""
    first = world.push()
    predictor = world.root / "predict.py"
    predictor.write_text(predictor.read_text().replace("Said again", "Said once more"))
    second = world.push()
    for name in "web", "batch":
        body = {"name": name, "model": MODEL, "version": second.version, "hardware": "cpu"}
        answer = world.replicate.post("/v1/deployments", json=body | {"min_instances": 0, "max_instances": 1})
        assert answer.status_code == 200
    return first, second


@pytest.fixture
def file(world: World) -> Path:
    return world.root / "releases.toml"


def deployed(world: World) -> dict[str, tuple[str, int]]:
    found = world.replicate.get("/v1/deployments").json()["results"]
    return {one["name"]: (one["current_release"]["version"], one["current_release"]["number"]) for one in found}


def test_it_moves_every_deployment_after_asking(world: World, two: tuple[Release, Release], file: Path) -> None:
    first, second = two
    world.person.agrees = True
    rollback(first.version[:8], world.account, world.person, file)
    assert deployed(world) == {"web": (first.version, 2), "batch": (first.version, 2)}
    assert [one.split("?")[0] for one in sorted(world.person.asked)] == [
        f"Move deployment local/{name} from {second.version[:12]} to {first.version[:12]}" for name in ("batch", "web")
    ]
    assert releases.live(MODEL, file) == first
    assert world.person.said[-1] == f"Callers should pin {MODEL}:{first.version}"


def test_without_consent_deployments_stay(world: World, two: tuple[Release, Release], file: Path) -> None:
    first, second = two
    rollback(first.version, world.account, world.person, file)
    assert deployed(world) == {"web": (second.version, 1), "batch": (second.version, 1)}
    assert releases.live(MODEL, file) == first


def test_a_failure_in_the_middle_is_finished_by_the_same_command(
    world: World, two: tuple[Release, Release], file: Path
) -> None:
    first, second = two
    world.person.agrees = True
    world.proxy.faults = [Fault("PATCH", "/deployments/local/web", times=100)]
    with pytest.raises(ReplicateFailed, match="run the same command again"):
        rollback(first.version, world.account, world.person, file)
    assert releases.live(MODEL, file) == second
    world.proxy.faults.clear()
    rollback(first.version, world.account, world.person, file)
    assert deployed(world) == {"web": (first.version, 2), "batch": (first.version, 2)}  # none was moved twice
    assert releases.live(MODEL, file) == first


def test_an_unknown_version_is_refused(world: World, two: tuple[Release, Release], file: Path) -> None:
    with pytest.raises(UsageError, match="No release has a version"):
        rollback("zz", world.account, world.person, file)


def test_a_version_that_replicate_has_no_longer_is_refused(
    world: World, two: tuple[Release, Release], file: Path
) -> None:
    first, second = two
    assert world.replicate.delete(f"/v1/models/{MODEL}/versions/{first.version}").status_code == 202
    world.registry.tags.clear()  # or the local Replicate would take it up again
    with pytest.raises(VersionMissing, match="choose another release"):
        rollback(first.version, world.account, world.person, file)
    assert releases.live(MODEL, file) == second
