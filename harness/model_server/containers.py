"""Find our model servers' containers again, also after the harness that started them is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.docker_engine import connected, gone
from harness.model_server.container import LABEL, host_port

if TYPE_CHECKING:
    from docker.models.containers import Container


@dataclass(frozen=True)
class FoundContainer:
    """One of our containers, whoever started it; `url` is None unless its `status` is "running"."""

    name: str
    image: str
    replica: str
    status: str
    url: str | None


def find() -> list[FoundContainer]:
    """List our containers in whatever state. Raises DockerError."""
    with connected() as client:
        found = client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
        return [_described(container) for container in found]


def remove(found: FoundContainer) -> None:
    """Kill and remove one of them; harmless when it is gone. Raises DockerError."""
    with connected() as client:
        gone(lambda: client.containers.get(found.name).remove(force=True))


def _described(container: Container) -> FoundContainer:
    url = f"http://127.0.0.1:{host_port(container)}" if container.status == "running" else None
    image = container.attrs["Config"]["Image"]
    return FoundContainer(container.name, image, container.labels[LABEL], container.status, url)
