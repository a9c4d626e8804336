"""From what was asked for to model servers: in Docker or natively, and on which GPUs."""

from __future__ import annotations

import os
from pathlib import Path

from harness import docker_engine
from harness.errors import EngineMissing
from harness.image import TAG
from harness.model_server.container import Gpus, ServerContainer, parse_gpus
from harness.model_server.process import ServerProcess
from harness.model_server.runtime import Runtime
from harness.service import HOME, STOP_TIMEOUT_S, Plan, prefix


def make_plan(runtime: str, image: str | None, gpus: str | None, port: int, replicas: int) -> tuple[Plan, str]:
    """Decide what was left open, "auto" and None; returns the plan, and why it has its runtime.

    Raises:
        UsageError: an option makes no sense.
        DockerError: Docker was asked for, but no engine answers.
    """
    if gpus is not None:
        parse_gpus(gpus)
    chosen, why = _choose_runtime(runtime, image or TAG)
    return Plan(chosen, image or TAG, gpus or _all_gpus(chosen), port, replicas), why


def runtimes(plan: Plan, home: Path = HOME, root: Path = Path(".")) -> list[Runtime]:
    """Return the plan's model servers, not started. With several replicas and listed GPUs each gets one of them."""
    return [_runtime(plan, index, home, root) for index in range(plan.replicas)]


def _choose_runtime(wish: str, image: str) -> tuple[str, str]:
    """Return "process" or "docker", and why."""
    if wish != "auto":
        return wish, "as asked"
    try:
        if docker_engine.has_image(image):
            return "docker", f"a Docker Engine answers and has the image {image}"
    except EngineMissing:
        return "process", "no Docker Engine answers"
    return "process", f"the Docker Engine has no image {image}"


def _all_gpus(runtime: str) -> str:
    return "none" if runtime == "docker" and not docker_engine.engine().gpus else "all"


def _runtime(plan: Plan, index: int, home: Path, root: Path) -> Runtime:
    log, port = home.resolve() / f"server-{index}.log", plan.port + index if plan.port else 0
    gpus = _share(parse_gpus(plan.gpus), index, plan.replicas)
    if plan.runtime == "docker":
        settings = {name: value for name, value in os.environ.items() if name.startswith("RESTORATION_")}
        weights = settings.pop("RESTORATION_WEIGHTS", None)  # a directory here: mounted over the image's own
        return ServerContainer(
            plan.image,
            log,
            replica=f"{prefix(home)}-{index}",
            gpus=gpus,
            port=port,
            weights=Path(weights) if weights else None,
            environment=settings,
            stop_timeout_s=STOP_TIMEOUT_S,
        )
    environment = {} if gpus == "all" else {"CUDA_VISIBLE_DEVICES": "" if gpus == "none" else ",".join(map(str, gpus))}
    return ServerProcess(root, log, port=port, environment=environment, stop_timeout_s=STOP_TIMEOUT_S)


def _share(gpus: Gpus, index: int, replicas: int) -> Gpus:
    return gpus if isinstance(gpus, str) or replicas == 1 else (gpus[index % len(gpus)],)
