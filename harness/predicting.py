"""One prediction from the command line: on whichever model server there is, its outcome as files and a few words."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from harness import service
from harness.errors import ModelServerError, UsageError
from harness.inputs import first_file, typed_inputs
from harness.model_server.client import ModelServer, OnLogs, new_prediction_id
from harness.model_server.files import read_output
from harness.model_server.process import ServerProcess

SETUP_TIMEOUT_S: Final = 600.0
PREDICTION_TIMEOUT_S: Final = 3600.0  # a person is watching, and can press Ctrl-C


@dataclass(frozen=True)
class Request:
    """What was typed: `inputs` by name, a file as `@path`; `output` None for a name made from the photo's."""

    inputs: Mapping[str, str]
    output: Path | None = None


@dataclass(frozen=True)
class Answer:
    """How it went; `output` is the model's JSON value with the names of the written files in place of their content."""

    status: str
    output: Any
    error: str | None
    metrics: dict[str, Any]


@asynccontextmanager
async def model_server(url: str | None) -> AsyncIterator[ModelServer]:
    """Give the READY model server at `url`, else one that `harness up` keeps, else one started for the occasion."""
    url = url or await _kept()
    if url is None:
        async with started() as server:
            yield server
        return
    async with ModelServer(url) as server:
        await server.wait_ready(5)
        yield server


async def predict(server: ModelServer, request: Request, on_logs: OnLogs) -> Answer:
    """Run one prediction and write its files.

    Raises:
        HarnessError: no answer at all, inputs it refuses, or a file that cannot be read or written.
    """
    inputs = await asyncio.to_thread(typed_inputs, request.inputs, await server.schema())
    outcome = await server.run(new_prediction_id(), inputs, on_logs=on_logs, timeout_s=PREDICTION_TIMEOUT_S)
    output = await asyncio.to_thread(_written, outcome.output, request)
    return Answer(outcome.status, output, outcome.error, dict(outcome.metrics))


def readable(output: Any) -> str:  # noqa: ANN401 - a JSON value
    """Return an output as a person reads it: text as it is, one line for each item of a list."""
    if isinstance(output, list):
        return "\n".join(map(readable, output))
    return output if isinstance(output, str) else json.dumps(output)


def summary(metrics: Mapping[str, Any], elapsed_s: float) -> str:
    """Say what was done, in one line, from whatever the model measured."""
    parts = []
    if "faces_found" in metrics:
        parts.append(f"faces: {metrics['faces_found']} found, {metrics.get('faces_restored', 0)} restored")
    if "width" in metrics:
        parts.append(f"{metrics['width']} x {metrics['height']} pixels")
    if stages := metrics.get("seconds"):
        slowest_first = sorted(stages.items(), key=lambda stage: -stage[1])
        parts.append(", ".join(f"{name} {seconds:.2f} s" for name, seconds in slowest_first if seconds >= 0.005))
    if "device" in metrics:
        parts.append(f"on {metrics['device']}")
    return "; ".join([*parts, f"{elapsed_s:.1f} s in all"])


async def _kept() -> str | None:
    """Return the address of a kept model server, one without work if there is any; None when none is kept."""
    addresses: list[str] = []
    while not addresses:
        if (kept := service.current()) is None:
            return None
        addresses = [replica.url for replica in kept.replicas if replica.phase == "ready"]
        if not addresses:
            await asyncio.sleep(0.2)  # starting, or starting again
    for address in addresses:
        async with ModelServer(address) as server:
            with contextlib.suppress(ModelServerError):  # it died just now; another may do
                if (await server.health()).status == "READY":
                    return address
    return addresses[0]


@asynccontextmanager
async def started(
    root: Path = Path("."), environment: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[ModelServer]:
    """Start a model server in `root`, with more variables in its `environment`; give it READY, stop it in the end."""
    with tempfile.TemporaryDirectory(prefix="harness-") as directory:
        log = Path(directory) / "server.log"
        process = ServerProcess(root, log, environment=dict(environment), stop_timeout_s=1)
        try:
            await process.start()
            async with ModelServer(process.url) as server:
                await server.wait_ready(SETUP_TIMEOUT_S)
                yield server
        finally:
            await process.stop()


def _written(output: Any, request: Request) -> Any:  # noqa: ANN401 - a JSON value
    """Write every data URL of an output to a file, and put the file's name in its place."""
    if isinstance(output, list):
        return [_write(value, request, index) for index, value in enumerate(output)]
    return _write(output, request, None)


def _write(value: Any, request: Request, index: int | None) -> Any:  # noqa: ANN401 - a JSON value
    if not (isinstance(value, str) and value.startswith("data:")):
        return value
    content, suffix = read_output(value)
    path = _place(request, suffix, index)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); name another file with -o.") from error
    return str(path)


def _place(request: Request, suffix: str, index: int | None) -> Path:
    """Return where an output goes: the name asked for, or one beside the photo; several are numbered."""
    photo = first_file(request.inputs)
    beside = photo.with_name(f"{photo.stem}-restored{suffix}") if photo else Path(f"output{suffix}")
    path = request.output or beside
    return path if index is None else path.with_name(f"{path.stem}.{index}{path.suffix}")
