"""Two credentials told apart, and pushes without cog: what is refused, and with which command it is put right."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest

from harness.docker_engine import Engine, connected
from harness.errors import CredentialRefused, RegistryFailed, UsageError
from harness.release import upload
from harness.release.upload import Upload, builder, check_login, registry_host

pytest_plugins = ["docker_fixtures"]


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's configuration, empty."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def login(config: Path, host: str, password: str) -> None:
    auth = base64.b64encode(f"somebody:{password}".encode()).decode()
    config.write_text(json.dumps({"auths": {host: {"auth": auth}}}))


def test_no_login_for_replicates_registry_is_told_with_cogs_command(docker_config: Path) -> None:
    with pytest.raises(CredentialRefused, match=r"cog login .* no r8_ API token"):
        check_login("r8.im")


def test_a_login_elsewhere_is_no_login_here(docker_config: Path) -> None:
    login(docker_config, "registry.example.com", "a-password")
    with pytest.raises(CredentialRefused, match="cog login"):
        check_login("r8.im")
    check_login("registry.example.com")
    with pytest.raises(CredentialRefused, match=r"docker login other\.example\.com"):
        check_login("other.example.com")


def test_an_api_token_as_login_is_told_apart_and_not_shown(docker_config: Path) -> None:
    login(docker_config, "r8.im", "r8_SomeApiToken")
    with pytest.raises(CredentialRefused, match="which the registry refuses") as refused:
        check_login("r8.im")
    assert "SomeApiToken" not in str(refused.value)


def test_a_token_of_the_registry_is_taken(docker_config: Path) -> None:
    login(docker_config, "r8.im", "0123456789abcdef")
    check_login("r8.im")


def test_a_registry_on_this_machine_needs_no_login(docker_config: Path) -> None:
    for host in "127.0.0.1:5055", "localhost:5000":
        check_login(host)


def test_cogs_own_variable_names_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COG_REGISTRY_HOST", raising=False)
    assert registry_host() == "r8.im"
    monkeypatch.setenv("COG_REGISTRY_HOST", "127.0.0.1:5055")
    assert registry_host() == "127.0.0.1:5055"


@pytest.mark.parametrize(("says", "what"), [("", "not installed"), ("cog version 0.19.3", "too old")])
def test_replicates_registry_needs_a_recent_cog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, what: str
) -> None:
    program = tmp_path / "cog"
    program.write_text(f"#!/bin/sh\necho {says}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UsageError, match=what):
        builder(Upload(tmp_path, "r8.im/me/model"))
    assert builder(Upload(tmp_path, "127.0.0.1:5055/me/model")) == "docker"


@pytest.mark.docker
def test_a_push_to_a_registry_that_is_down_says_so(
    engine: Engine, base_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine tells of failed pushes only in the stream of their progress."""
    monkeypatch.setattr(upload, "PAUSE_S", 0.01)
    monkeypatch.setattr(upload, "build", lambda request: None)  # what is pushed was built before
    monkeypatch.setattr(upload, "cog_version", lambda: None)
    image = "127.0.0.1:9/me/model"
    with connected() as client:
        client.images.get(base_image).tag(image)
    said: list[str] = []
    try:
        with pytest.raises(RegistryFailed, match="run the same command again, it goes on where it stopped"):
            upload.push(Upload(tmp_path, image), said.append)
    finally:
        with connected() as client:
            client.images.remove(image)
    assert "Docker builds and pushes the image, with the same labels" in said[0]
    assert [text[-11:] for text in said[1:]] == ["Try 2 of 3.", "Try 3 of 3."]
