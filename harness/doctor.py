"""What this machine has of what the harness needs: one line for each thing, with the remedy where it lacks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

from harness import docker_engine, image, schema, service
from harness.errors import DockerError, HarnessError
from restoration.errors import RestorationError, WeightsError
from restoration.settings import Settings
from restoration.weights import Weights

Verdict = Literal["ok", "missing", "optional"]

_TOKENS: Final = {"REPLICATE_API_TOKEN": "push and the checks on Replicate", "COG_TOKEN": "`cog login` in scripts"}
_COG_PINS: Final = {"cog": "0.23.1", "coglet": "0.23.1"}


@dataclass(frozen=True)
class Finding:
    """One line: "missing" stops the model from running here, "optional" only narrows what can be done."""

    verdict: Verdict
    subject: str
    text: str


def examine() -> Iterator[Finding]:
    """Yield what is found, thing by thing; never raises for something that is absent."""
    for check in (_python, _packages, _schema, _weights, _docker, _gpu, _cog, _ports):
        yield _safely(check)
    yield from (_token(name, use) for name, use in _TOKENS.items())


def _safely(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (HarnessError, RestorationError) as error:
        verdict: Verdict = "optional" if isinstance(error, DockerError) else "missing"
        return Finding(verdict, check.__name__.strip("_"), str(error))


def _python() -> Finding:
    found = sys.version.split()[0]
    if (3, 11) <= sys.version_info < (3, 13):
        return Finding("ok", "python", found)
    return Finding("missing", "python", f"{found}, but 3.11 or 3.12 is needed: make setup PYTHON=python3.12")


def _packages() -> Finding:
    for name, pin in _COG_PINS.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            return Finding("missing", "packages", f"{name} is not installed: make setup")
        if found != pin:
            return Finding("missing", "packages", f"{name} is {found}, but {pin} is pinned: make setup")
    return Finding("ok", "packages", ", ".join(f"{name} {pin}" for name, pin in _COG_PINS.items()))


def _schema() -> Finding:
    text = schema.render(schema.openapi_schema())
    if not schema.SCHEMA_FILE.is_file():
        return Finding(
            "optional", "schema", f"no {schema.SCHEMA_FILE} yet; starting a model server or `make schema` writes it"
        )
    if schema.SCHEMA_FILE.read_text(encoding="utf-8") != text:
        return Finding("optional", "schema", f"{schema.SCHEMA_FILE} is older than predict.py: make schema")
    return Finding("ok", "schema", "in step with predict.py")


def _weights() -> Finding:
    weights = Weights(Settings.from_environment().weights)
    needed = [file.name for file in weights.files.values() if "default" in file.needed_for]
    absent = [name for name in needed if not _intact(weights, name)]
    if absent:
        return Finding(
            "missing", "weights", f"{', '.join(absent)} missing or damaged in {weights.directory}: make weights"
        )
    return Finding("ok", "weights", f"{', '.join(needed)} in {weights.directory}")


def _intact(weights: Weights, name: str) -> bool:
    try:
        weights.path(name)
    except WeightsError:
        return False
    return True


def _docker() -> Finding:
    engine = docker_engine.engine()
    gpus = "with" if engine.gpus else "without"
    return Finding(
        "ok", "docker", f"Engine {engine.version}, API {engine.api_version}, {gpus} NVIDIA's container runtime"
    )


def _gpu() -> Finding:
    command = shutil.which("nvidia-smi")
    if command is None:
        return Finding("optional", "gpu", "no NVIDIA driver (nvidia-smi); the model runs on the CPU, slowly")
    query = [command, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout  # noqa: S603 - no input of others
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("optional", "gpu", f"nvidia-smi fails ({error}); reinstall the NVIDIA driver, or use the CPU")
    return Finding("ok", "gpu", "; ".join(said.strip().splitlines()) or "no GPU")


def _cog() -> Finding:
    found = image.cog_version()
    if found is None:
        return Finding("optional", "cog command", "not installed; Docker alone builds the image: make image")
    text = ".".join(map(str, found))
    if found < image.OLDEST_COG:
        return Finding("optional", "cog command", f"{text} is too old to be used; install 0.20 or newer from cog.run")
    return Finding("ok", "cog command", text)


def _ports() -> Finding:
    kept = service.current()
    if kept is not None:
        return Finding("ok", "ports", "model servers are up at " + ", ".join(replica.url for replica in kept.replicas))
    taken = [port for port in (5000, 8000) if not _free(port)]
    if taken:
        return Finding("optional", "ports", f"{', '.join(map(str, taken))} taken by another program; use --port")
    return Finding("ok", "ports", "5000 and 8000 are free")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _token(name: str, use: str) -> Finding:
    if os.environ.get(name):
        return Finding("ok", name, "set")
    return Finding("optional", name, f"not set; needed for {use}")
