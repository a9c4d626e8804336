"""A model server in a Docker container: read-only, without privileges, reachable from this machine alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from docker.errors import DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest

from harness.docker_engine import connect, gone, translated
from harness.errors import DockerError, EngineMissing, ImageMissing, OutOfMemory, UsageError
from harness.model_server.process import COG_SCRATCH
from harness.model_server.runtime import peak_of

if TYPE_CHECKING:
    from docker.models.containers import Container

LABEL: Final = "gfpgan-cog.model-server"
"""Marks our containers; its value is the replica's name."""

WEIGHTS: Final = "/src/weights"
"""Where the image's predictor looks for its weights."""

USER_ID: Final = 1000
"""Who the model runs as inside; a mounted weights directory must be readable to this user."""

_PORT: Final = "5000/tcp"
_SAFE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

_log = logging.getLogger(__name__)

Gpus = str | tuple[int, ...]
"""Which GPUs a container gets: "all", "none", or their indices."""


def parse_gpus(text: str) -> Gpus:
    """Read `all`, `none` or `0,1`. Raises UsageError."""
    if text in ("all", "none"):
        return text
    if re.fullmatch(r"\d+(,\d+)*", text):
        return tuple(int(index) for index in text.split(","))
    raise UsageError(f"GPUs must be all, none, or indices like 0,1, not {text!r}.")


@dataclass
class ServerContainer:
    """Cog's server inside a container of `image`; a `Runtime`.

    logs: file that the container's output is appended to.
    replica: tells containers of one harness apart; a label carries it.
    gpus: see `Gpus`.
    port: a fixed port on 127.0.0.1, or 0 for a free one at every start.
    weights: a directory mounted read-only in place of the image's own weights, or None.
    memory_bytes: limit for all that the container uses, /tmp included; None for no limit.
    shm_bytes, tmp_bytes: limits of shared memory and of /tmp, the one place that can be written.
    environment: variables added to (and winning over) those set here.
    setup_timeout_s: how long setup may take before Cog itself reports SETUP_FAILED.
    stop_timeout_s: how long a running prediction may finish in `stop()` before everything is killed.
    """

    image: str
    logs: Path
    replica: str = "0"
    gpus: Gpus = "none"
    port: int = 0
    weights: Path | None = None
    memory_bytes: int | None = None
    shm_bytes: int = 1 << 30
    tmp_bytes: int = 4 << 30
    environment: dict[str, str] = field(default_factory=dict)
    setup_timeout_s: float = 600.0
    stop_timeout_s: float = 10.0
    _container: Container | None = field(default=None, init=False, repr=False)
    _follower: threading.Thread | None = field(default=None, init=False, repr=False)
    _port_now: int = field(default=0, init=False, repr=False)
    _started_at: float = field(default=0.0, init=False, repr=False)
    # A cancelled start goes on in its thread: stopping waits for it, so that nothing is left behind.
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def name(self) -> str:
        """ "container" with its name once it has been started."""
        return f"container {self._container.name}" if self._container else "container"

    @property
    def url(self) -> str:
        """Where the server answers, on the loopback address only."""
        return f"http://127.0.0.1:{self._port_now}"

    async def start(self) -> None:
        """Create the container and start it; returns before the server is ready.

        Raises:
            EngineMissing, ImageMissing, GpuMissing, PortTaken: as they say.
            DockerError: whatever else the engine refused; no container is left behind in any case.
        """
        await self.stop()
        await asyncio.to_thread(self._start)

    async def stop(self) -> None:
        """Ask the server to end, kill it after `stop_timeout_s`, and remove the container."""
        await asyncio.to_thread(self._stop)

    async def alive(self) -> bool:
        """Return whether the container runs. Raises DockerError."""
        return await asyncio.to_thread(self._alive)

    async def discard(self, prediction_id: str) -> None:
        """Remove what Cog left of a finished prediction; it never does so itself."""
        if _SAFE_ID.fullmatch(prediction_id):
            await asyncio.to_thread(self._execute, ["rm", "-rf", str(COG_SCRATCH / prediction_id)])

    async def sweep(self) -> None:
        """Remove what Cog left of others' predictions: the place is this container's own, so a minute is old."""
        old = ["find", str(COG_SCRATCH), "-mindepth", "1", "-maxdepth", "1", "-mmin", "+1"]
        await asyncio.to_thread(self._execute, [*old, "-exec", "rm", "-rf", "{}", "+"])

    async def diagnosis(self) -> DockerError | None:
        """Say why the container, or the worker in it, died, as far as the engine knows; None if it knows nothing.

        A worker that is killed for memory leaves the container running: only the engine's events tell.
        """
        return await asyncio.to_thread(self._diagnosis)

    async def peak_bytes(self) -> int:
        """Sum up what every process inside says of itself, and so with any engine. Raises DockerError."""
        return await asyncio.to_thread(self._peak_bytes)

    def _start(self) -> None:
        with self._lock:
            client = connect()
            try:
                with translated():
                    self._container = self._create_and_start(client)
            finally:
                if self._container is None:
                    client.close()
            self._follower = threading.Thread(target=_follow, args=(self._container, self.logs), daemon=True)
            self._follower.start()

    def _create_and_start(self, client: Any) -> Container:  # noqa: ANN401 # the docker SDK has no types
        try:
            image = client.images.get(self.image)
        except ImageNotFound as error:
            raise ImageMissing(f"The Docker Engine has no image {self.image}; build it: make image.") from error
        container = client.containers.create(self.image, **self._options(image.labels))
        try:
            self._started_at = time.time()
            container.start()
            container.reload()
            self._port_now = host_port(container)
        except BaseException:
            container.remove(force=True)
            raise
        return container

    def _options(self, image_labels: dict[str, str]) -> dict[str, Any]:
        return {
            "name": f"gfpgan-cog-{self.replica}-{uuid.uuid4().hex[:8]}",
            "labels": {LABEL: self.replica},
            "environment": self._environment(),
            "ports": {_PORT: ("127.0.0.1", self.port or None)},
            "device_requests": _device_requests(self.gpus),
            "volumes": {str(self.weights.resolve()): {"bind": WEIGHTS, "mode": "ro"}} if self.weights else {},
            "mem_limit": self.memory_bytes,
            "memswap_limit": self.memory_bytes,  # the same: no swap on top
            "shm_size": self.shm_bytes,
            "tmpfs": {"/tmp": f"size={self.tmp_bytes},mode=1777"},  # noqa: S108 # inside the container
            "read_only": True,
            "user": str(USER_ID),
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            # Something must reap a killed worker; one such init is enough.
            "init": image_labels.get("run.cog.has_init") != "true",
        }

    def _environment(self) -> dict[str, str]:
        own = {
            "HOME": "/tmp",  # noqa: S108 # inside the container, where nothing else can be written
            "COG_SETUP_TIMEOUT": str(max(1, round(self.setup_timeout_s))),
            "LOG_FORMAT": "console",
            "NO_COLOR": "1",
        }
        return own | self.environment

    def _stop(self) -> None:
        with self._lock:
            if (container := self._container) is None:
                return
            try:
                with translated():
                    self._note_diagnosis(container)
                    gone(lambda: container.stop(timeout=round(self.stop_timeout_s)))
                    gone(lambda: container.remove(force=True))
            except EngineMissing as error:  # without an engine there is no container; the next start says so loudly
                _log.warning("%s cannot be removed: %s", self.name, error)
            if self._follower is not None:
                self._follower.join(timeout=5)  # the stream ended with the container
            container.client.close()
            self._container = self._follower = None

    def _alive(self) -> bool:
        with translated():
            return (container := self._container) is not None and _state(container).get("Running", False)

    def _execute(self, command: list[str]) -> None:
        if (container := self._container) is not None:
            # One that does not run any more has no files either: they are in its memory.
            with contextlib.suppress(DockerException, OSError):
                container.exec_run(command)

    def _peak_bytes(self) -> int:
        with translated():
            said = self._container.exec_run(["sh", "-c", "cat /proc/[0-9]*/status"]).output if self._container else b""
        if not (peak := peak_of(said.decode(errors="replace"))):
            raise DockerError(f"{self.name} does not tell how much memory it takes; its log is {self.logs}.")
        return peak

    def _diagnosis(self) -> DockerError | None:
        with translated():
            return self._examine(container) if (container := self._container) is not None else None

    def _examine(self, container: Container) -> DockerError | None:
        state = _state(container)
        if state.get("OOMKilled") or self._saw_oom(container):
            limit = f"limit of {self.memory_bytes >> 20} MiB" if self.memory_bytes else "memory of this machine"
            return OutOfMemory(f"{self.name} went beyond the {limit}; allow it more, or send smaller photos.")
        if state and not state["Running"]:
            return DockerError(f"{self.name} ended with exit code {state['ExitCode']}; its log is {self.logs}.")
        return None

    def _saw_oom(self, container: Container) -> bool:
        which = {"container": container.id, "event": "oom"}
        period = {"since": f"{self._started_at:.6f}", "until": f"{time.time():.6f}"}
        return bool(list(container.client.events(filters=which, decode=True, **period)))

    def _note_diagnosis(self, container: Container) -> None:
        """Append to the log what the engine knows of a death: the log is where a person looks."""
        if (reason := self._examine(container)) is not None:
            with self.logs.open("a", encoding="utf-8") as file:
                file.write(f"{reason}\n")


def host_port(container: Container) -> int:
    """Return the port on this machine that reaches the server. Raises DockerError when the container has ended."""
    bindings = container.ports.get(_PORT)
    if not bindings:
        said = container.logs(tail=3).decode(errors="replace").strip()
        raise DockerError(f"{container.name} ended as soon as it was started: {said or 'it said nothing'}.")
    return int(bindings[0]["HostPort"])


def _state(container: Container) -> dict[str, Any]:
    """Return the container's state as the engine tells it now; empty when the container is gone."""
    try:
        container.reload()
    except NotFound:
        return {}
    state: dict[str, Any] = container.attrs["State"]
    return state


def _device_requests(gpus: Gpus) -> list[DeviceRequest]:
    if gpus == "none":
        return []
    which = {"count": -1} if gpus == "all" else {"device_ids": [str(index) for index in gpus]}
    return [DeviceRequest(capabilities=[["gpu"]], **which)]


def _follow(container: Container, logs: Path) -> None:
    """Append the container's output to a file until it ends."""
    with logs.open("ab") as file, contextlib.suppress(DockerException, OSError, ValueError):
        for piece in _output(container):
            file.write(piece)
            file.flush()


def _output(container: Container) -> Iterator[bytes]:
    pieces: Iterator[bytes] = container.logs(stream=True, follow=True)
    return pieces
