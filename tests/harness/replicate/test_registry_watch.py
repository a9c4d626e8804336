"""What is pushed to a registry becomes a version of the local Replicate, by digest, if a model of that name exists."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from replicate_in_thread import DOCUMENT, PNG_URL, VERSION, Replicate, replicate
from replicate_processes import until
from tiny_registry import TinyRegistry

LABELS = {"run.cog.openapi_schema": json.dumps(DOCUMENT), "run.cog.version": "0.23.1"}
MODEL = "local/toy"


@pytest.fixture
def registry() -> Iterator[TinyRegistry]:
    with TinyRegistry() as one:
        yield one


@pytest.fixture
def local(registry: TinyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replicate]:
    monkeypatch.setattr("harness.replicate.registry_watch.POLL_S", 0.02)
    with replicate(tmp_path / "data", registry=registry.host) as one:
        yield one


def create(local: Replicate) -> None:
    owner, name = MODEL.split("/")
    body = {"owner": owner, "name": name, "visibility": "private", "hardware": "cpu"}
    assert local.post("/v1/models", json=body).status_code == 201


def versions(local: Replicate) -> list[str]:
    found = local.get(f"/v1/models/{MODEL}/versions").json().get("results", [])
    return [version["id"] for version in found]


def test_a_pushed_image_becomes_a_version_with_its_labels_once_the_model_exists(
    local: Replicate, registry: TinyRegistry
) -> None:
    digest = registry.push(MODEL, LABELS)
    assert versions(local) == []
    create(local)
    until(lambda: versions(local))
    assert versions(local) == [digest.removeprefix("sha256:")]
    shown = local.get(f"/v1/models/{MODEL}/versions/{versions(local)[0]}").json()
    assert (shown["openapi_schema"], shown["cog_version"]) == (DOCUMENT, "0.23.1")


def test_the_next_image_is_the_newest_version_and_the_old_one_stays(local: Replicate, registry: TinyRegistry) -> None:
    create(local)
    first = registry.push(MODEL, LABELS, "first").removeprefix("sha256:")
    until(lambda: versions(local) == [first])
    second = registry.push(MODEL, LABELS, "second").removeprefix("sha256:")
    until(lambda: versions(local) == [second, first])


@pytest.mark.parametrize(
    "labels", [{}, LABELS | {"run.cog.openapi_schema": "no JSON"}, LABELS | {"run.cog.openapi_schema": "[]"}]
)
def test_an_image_that_is_no_model_makes_no_version_and_stops_nothing(
    local: Replicate, registry: TinyRegistry, labels: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    create(local)
    registry.push(MODEL, labels)
    until(lambda: "no version was made" in caplog.text)
    good = registry.push(MODEL, LABELS).removeprefix("sha256:")
    until(lambda: versions(local) == [good])


def test_content_that_is_not_what_its_digest_says_is_refused(
    local: Replicate, registry: TinyRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    create(local)
    config = registry.store(json.dumps({"config": {"Labels": LABELS}}).encode())
    registry.content[config] = json.dumps({"config": {"Labels": LABELS}, "changed": True}).encode()
    registry.tags[MODEL] = registry.store(json.dumps({"config": {"digest": config}}).encode())
    until(lambda: "gave other content" in caplog.text)
    assert versions(local) == []


def test_an_index_stands_for_its_linux_amd64_image(local: Replicate, registry: TinyRegistry) -> None:
    create(local)
    image = registry.push("elsewhere", LABELS)
    entries = [{"digest": "sha256:0", "platform": {"architecture": "arm64"}}]
    entries.append({"digest": image, "platform": {"architecture": "amd64"}})
    registry.tags[MODEL] = registry.store(json.dumps({"manifests": entries}).encode())
    until(lambda: versions(local))
    assert versions(local) == [registry.tags[MODEL].removeprefix("sha256:")]


def test_versions_are_known_again_after_a_restart_without_the_registry(
    registry: TinyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.replicate.registry_watch.POLL_S", 0.02)
    document = copy.deepcopy(DOCUMENT)
    document["components"]["schemas"]["Input"]["properties"]["scale"]["maximum"] = 2
    with replicate(tmp_path / "data", registry=registry.host) as local:
        create(local)
        registry.push(MODEL, LABELS | {"run.cog.openapi_schema": json.dumps(document)})
        until(lambda: versions(local))
        version = versions(local)[0]
    registry.tags.clear()
    with replicate(tmp_path / "data", registry=registry.host) as local:
        until(lambda: local.service.pushed.served)
        refused = local.create(version=version, input={"img": PNG_URL, "scale": 3})
        assert refused.status_code == 422
        assert "scale" in refused.text  # by the pushed version's own schema; the model served here takes it:
        assert local.create(input={"img": PNG_URL, "scale": 3}).status_code == 201


def test_the_model_served_here_is_not_looked_for_in_the_registry(local: Replicate, registry: TinyRegistry) -> None:
    registry.push("tencentarc/gfpgan", LABELS)
    create(local)
    registry.push(MODEL, LABELS, "later")
    until(lambda: versions(local))
    found = local.get("/v1/models/tencentarc/gfpgan/versions").json()["results"]
    assert registry.tags["tencentarc/gfpgan"].removeprefix("sha256:") not in [one["id"] for one in found]
    assert local.create(version=VERSION).status_code == 201
