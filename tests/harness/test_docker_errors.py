"""Whatever the engine says, old or new, a person gets one sentence and the way out, and a program gets a code."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from docker.errors import APIError, ContainerError, DockerException, ImageNotFound

from harness.docker_engine import connect, translated
from harness.errors import DockerError, EngineMissing, GpuMissing, ImageMissing, PortTaken


@pytest.mark.parametrize(
    ("said", "expected", "way_out"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', GpuMissing, "--gpus none"),
        ("Unknown runtime specified nvidia", GpuMissing, "--gpus none"),
        ("unknown or invalid runtime name: nvidia", GpuMissing, "--gpus none"),
        ("nvidia-container-cli: initialization error: nvml error: driver not loaded", GpuMissing, "Container Toolkit"),
        ("failed to discover GPU vendor from CDI: no known GPU vendor found", GpuMissing, "Container Toolkit"),
        ("Bind for 127.0.0.1:5072 failed: port is already allocated", PortTaken, "5072"),
        ("listen tcp4 127.0.0.1:5072: bind: address already in use", PortTaken, "--port"),
        ("write /var/lib/docker/x: no space left on device", DockerError, "docker system prune"),
        ("invalid mount config\nfor type bind", DockerError, "refused: invalid mount config for type bind."),
    ],
)
def test_a_refusal_becomes_the_error_that_names_the_way_out(
    said: str, expected: type[DockerError], way_out: str
) -> None:
    with pytest.raises(DockerError) as raised, translated():
        raise APIError("500 Server Error", explanation=said)
    assert type(raised.value) is expected
    assert way_out in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ImageNotFound("404", explanation="No such image: x:latest"), ImageMissing),
        (ConnectionResetError("the engine went away"), EngineMissing),
        (ContainerError(None, 1, "python", "x", b"boom"), DockerError),
        (DockerException("something new"), DockerError),
    ],
)
def test_every_other_error_of_the_sdk_is_ours_too(error: Exception, expected: type[DockerError]) -> None:
    with pytest.raises(DockerError) as raised, translated():
        raise error
    assert type(raised.value) is expected


def test_an_engine_of_another_user_is_told_from_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)  # root, who may run these tests, is never refused
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(EngineMissing, match="group docker"):
        connect()


@pytest.mark.parametrize("host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:1"])
def test_where_no_engine_answers_it_says_how_to_go_on(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(EngineMissing, match="--runtime process"):
        connect()
