"""The model servers that `harness up` keeps running: what was asked for, where they are, and how to end them.

Everything about them lies in the directory `.harness` of the repository: the daemon holds `lock` as long as it lives,
writes `state.json` whenever something changes, and the servers' output goes to `server-N.log`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from harness.errors import EngineMissing, ModelServerError, NotReady, SetupFailed, UsageError

HOME: Final = Path(".harness")
STOP_TIMEOUT_S: Final = 10.0  # how long a running prediction may finish


@dataclass(frozen=True)
class Plan:
    """What `harness up` was asked for.

    gpus: "all", "none" or indices like "0,1". port: of the first replica; 0 takes a free one for each.
    """

    runtime: str
    image: str
    gpus: str = "none"
    port: int = 0
    replicas: int = 1

    def __post_init__(self) -> None:
        if self.runtime not in ("process", "docker"):
            raise UsageError(f"There is no runtime {self.runtime!r}; use auto, process or docker.")


@dataclass(frozen=True)
class Replica:
    """One model server as the daemon last saw it; `phase` as in `supervisor.State`."""

    name: str
    url: str
    phase: str
    restarts: int
    reason: str


@dataclass(frozen=True)
class Service:
    """What the daemon says of itself."""

    pid: int
    started_at: float
    plan: Plan
    replicas: list[Replica] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether every replica takes predictions."""
        return bool(self.replicas) and all(replica.phase == "ready" for replica in self.replicas)

    @property
    def failed(self) -> Replica | None:
        """The first replica that was given up."""
        return next((replica for replica in self.replicas if replica.phase == "failed"), None)


def up(plan: Plan, home: Path = HOME) -> None:
    """Start the daemon and return; `current` tells how it gets on.

    Raises:
        UsageError: one runs already.
    """
    if (running := current(home)) is not None:
        raise UsageError(f"Model servers are up already (process {running.pid}); end them first: harness down.")
    home.mkdir(exist_ok=True)
    (home / "state.json").unlink(missing_ok=True)
    with (home / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "harness.daemon", json.dumps(asdict(plan))],
            env=os.environ | {"PYTHONPATH": _with_harness(), "HARNESS_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _await_state(daemon, home)


def current(home: Path = HOME) -> Service | None:
    """Return what runs, or None; a daemon that was killed counts as none."""
    if not home.is_dir():
        return None
    with contextlib.suppress(Timeout), lock(home):
        return None
    return _last(home)


def wait_ready(home: Path = HOME, *, on_news: Callable[[str], None]) -> Service:
    """Wait until every replica is ready; `on_news` hears of each restart meanwhile.

    Raises:
        SetupFailed: a replica was given up; the message says why and where its log is.
    """
    heard: set[tuple[str, int]] = set()
    while True:
        kept = current(home)
        if kept is None:
            kept = _last(home)
            if kept.failed is None:
                raise ModelServerError(f"The daemon ended; its log is {home / 'daemon.log'}.")
        if kept.failed is not None:
            raise SetupFailed(f"The model does not start: {kept.failed.reason} Its log: harness logs.")
        if kept.ready:
            return kept
        for replica in kept.replicas:
            if replica.phase == "restarting" and (news := (replica.name, replica.restarts)) not in heard:
                heard.add(news)
                on_news(f"{replica.name}: {replica.reason} Trying again.")
        time.sleep(0.1)


def down(home: Path = HOME) -> bool:
    """End the daemon and its model servers; returns False when nothing ran. Running predictions may finish first."""
    service = current(home)
    if service is not None:
        os.kill(service.pid, signal.SIGTERM)
        if not _gone(home, STOP_TIMEOUT_S + 20):
            os.kill(service.pid, signal.SIGKILL)  # native servers die with it
            _gone(home, 10)
    left = _remove_containers(home)
    return service is not None or left


def write(home: Path, service: Service) -> None:
    """Replace the state file in one step."""
    new = home / "state.json.new"
    new.write_text(json.dumps(asdict(service)), encoding="utf-8")
    new.replace(home / "state.json")


def lock(home: Path) -> FileLock:
    """Return the daemon's lock, not taken; it goes with the process that holds it."""
    return FileLock(home / "lock", blocking=False)


def prefix(home: Path) -> str:
    """Return what the replicas of this directory are called, so that two checkouts keep their containers apart."""
    return hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:8]


def logs(home: Path = HOME) -> list[Path]:
    """Return the log files of the daemon and the model servers, those of the last run if none runs."""
    return sorted(home.glob("*.log"))


def _with_harness() -> str:
    here = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))


def _await_state(daemon: subprocess.Popen[bytes], home: Path) -> None:
    deadline = time.monotonic() + 30
    while not (home / "state.json").exists():
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise ModelServerError(f"The daemon did not start; its log is {home / 'daemon.log'}.")
        time.sleep(0.05)


def _last(home: Path) -> Service:
    try:
        text = (home / "state.json").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotReady("The daemon is just starting; try again.") from error
    raw: dict[str, Any] = json.loads(text)
    replicas = [Replica(**replica) for replica in raw.pop("replicas")]
    return Service(plan=Plan(**raw.pop("plan")), replicas=replicas, **raw)


def _gone(home: Path, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if current(home) is None:
            return True
        time.sleep(0.05)
    return False


def _remove_containers(home: Path) -> bool:
    """Remove containers that a killed daemon left; returns whether there were any."""
    from harness.model_server import containers  # the docker package takes a while to import

    try:
        left = [found for found in containers.find() if found.replica.startswith(prefix(home))]
    except EngineMissing:
        return False
    for found in left:
        containers.remove(found)
    return bool(left)
