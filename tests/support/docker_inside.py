"""Look at, and lay hands on, the container behind a model server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.docker_engine import connected
from harness.model_server.container import ServerContainer


@contextmanager
def container_of(server: ServerContainer) -> Iterator[Any]:
    """What the docker SDK has of a server's container, asked afresh."""
    with connected() as client:
        yield client.containers.get(server.name.removeprefix("container "))
