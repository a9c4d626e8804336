"""The Docker Engine that this machine offers: connect to it, ask about it, and say in one sentence what it refused."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from harness.errors import DockerError, EngineMissing, GpuMissing, ImageMissing, PortTaken

GIVE_UP_AFTER_S = 60.0
"""How long one request to the engine may take; stopping a container is the slowest."""

_NO_GPU = re.compile(
    r"could not select device driver|unknown .*runtime.* nvidia|nvidia-container-cli|\bCDI\b", re.IGNORECASE
)
_PORT_TAKEN = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)
_DISK_FULL = re.compile(r"no space left on device", re.IGNORECASE)


@dataclass(frozen=True)
class Engine:
    """What an engine says of itself; `gpus`: whether NVIDIA's container runtime is registered with it."""

    version: str
    api_version: str
    gpus: bool


def engine() -> Engine:
    """Describe the engine. Raises EngineMissing where none answers."""
    with connected() as client:
        version, info = client.version(), client.info()
        return Engine(version["Version"], client.api.api_version, "nvidia" in info.get("Runtimes", {}))


def has_image(image: str) -> bool:
    """Return whether the engine has this image; nothing is pulled. Raises EngineMissing."""
    with connected() as client:
        try:
            client.images.get(image)
        except ImageNotFound:
            return False
        return True


def connect() -> docker.DockerClient:
    """Return a client of the engine that DOCKER_HOST names, in an API version that both know; close it after use.

    Raises EngineMissing.
    """
    try:
        _knock(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
        return docker.from_env(timeout=GIVE_UP_AFTER_S)
    except (OSError, DockerException) as error:  # requests' errors too
        raise _missing(error) from error


@contextmanager
def connected() -> Iterator[docker.DockerClient]:
    """Connect for the length of a block, with its errors translated. Raises DockerError."""
    client = connect()
    try:
        with translated():
            yield client
    finally:
        client.close()


@contextmanager
def translated() -> Iterator[None]:
    """Turn every error of the engine inside the block into a DockerError with the remedy."""
    try:
        yield
    except ImageNotFound as error:
        raise ImageMissing(
            f"The Docker Engine has no such image ({_one_line(error)}); build it: make image."
        ) from error
    except APIError as error:
        raise _refused(error) from error
    except OSError as error:  # requests' errors too
        raise _missing(error) from error
    except DockerException as error:
        raise DockerError(f"The Docker Engine could not do it: {' '.join(str(error).split())}") from error


def gone(action: Callable[[], object]) -> None:
    """Do `action`, content if what it acts on has gone already."""
    try:
        action()
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != 409:  # removal of it is already in progress
            raise


def _knock(host: str) -> None:
    """Raise OSError unless somebody listens: the SDK would find out too, but leave its socket open."""
    if host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as knock:
            knock.connect(host.removeprefix("unix://"))


def _refused(error: APIError) -> DockerError:
    text = _one_line(error)
    if _NO_GPU.search(text):
        return GpuMissing(
            "This Docker Engine cannot give a container a GPU; install the NVIDIA driver and Container Toolkit, "
            "or run on the CPU with --gpus none."
        )
    if _PORT_TAKEN.search(text):
        return PortTaken(f"The port is taken ({text}); choose another with --port, or none for a free one.")
    if _DISK_FULL.search(text):
        return DockerError("The Docker Engine's disk is full; free some with: docker system prune.")
    return DockerError(f"The Docker Engine refused: {text}.")


def _missing(error: Exception) -> EngineMissing:
    if "Permission denied" in str(error):
        return EngineMissing("The Docker Engine does not answer this user; add the user to the group docker.")
    return EngineMissing(
        "No Docker Engine answers; start Docker, set DOCKER_HOST, or run without containers: --runtime process."
    )


def _one_line(error: APIError) -> str:
    return " ".join(str(error.explanation or error).split()).rstrip(".")
