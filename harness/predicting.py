"""One prediction from the command line: inputs as typed by a person, the outcome as files and a few words."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import service
from harness.errors import PredictionFailed, UsageError
from harness.model_server.client import ModelServer, OnLogs, Outcome, new_prediction_id
from harness.model_server.files import data_url, read_output
from harness.model_server.process import ServerProcess

SETUP_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Request:
    """What was typed: `inputs` by name, a file as `@path`; `output` None for a name made from the photo's."""

    inputs: Mapping[str, str]
    output: Path | None = None


def parse_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """Split `name=value` at the first equals sign. Raises UsageError."""
    parsed = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"An input is name=value, not {pair!r}; a file is name=@path.")
        parsed[name] = value
    return parsed


def typed_inputs(inputs: Mapping[str, str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what was typed into what the schema's types ask for; files become data URLs.

    Raises:
        UsageError: a name that the model does not know, a value of the wrong type, or a file that cannot be read.
    """
    known = schema["components"]["schemas"]["Input"]["properties"]
    for name in inputs:
        if name not in known:
            raise UsageError(f"The model has no input {name!r}; it has {', '.join(known)}.")
    return {name: _typed(name, value, _type_of(known[name], schema)) for name, value in inputs.items()}


@asynccontextmanager
async def model_server(url: str | None) -> AsyncIterator[ModelServer]:
    """Give the model server at `url`, else one that `harness up` keeps, else one started for the occasion."""
    if url is None:
        running = service.current()
        url = next((replica.url for replica in running.replicas if replica.phase == "ready"), None) if running else None
    if url is not None:
        async with ModelServer(url) as server:
            await server.wait_ready(5)
            yield server
        return
    with tempfile.TemporaryDirectory(prefix="harness-") as directory:
        process = ServerProcess(Path("."), Path(directory) / "server.log", stop_timeout_s=1)
        try:
            await process.start()
            async with ModelServer(process.url) as server:
                await server.wait_ready(SETUP_TIMEOUT_S)
                yield server
        finally:
            await process.stop()


async def predict(server: ModelServer, request: Request, on_logs: OnLogs) -> tuple[Outcome, list[Path]]:
    """Run one prediction and write its files; returns them in order, none when the output is no file.

    Raises:
        PredictionFailed: the model answered with a failure.
        HarnessError: no answer at all, or inputs it refuses.
    """
    inputs = await asyncio.to_thread(typed_inputs, request.inputs, await server.schema())
    outcome = await server.run(new_prediction_id(), inputs, on_logs=on_logs)
    if outcome.status != "succeeded":
        raise PredictionFailed(outcome.error or f"The prediction was {outcome.status}.")
    return outcome, await asyncio.to_thread(_write, outcome.output, request)


def summary(metrics: Mapping[str, Any], elapsed_s: float) -> str:
    """Say what was done, in one line, from whatever the model measured."""
    parts = []
    if "faces_found" in metrics:
        found, restored = metrics["faces_found"], metrics.get("faces_restored")
        parts.append(f"{found} face{'' if found == 1 else 's'} found" + (f", {restored} restored" if restored is not None else ""))
    if "width" in metrics and "height" in metrics:
        parts.append(f"{metrics['width']} x {metrics['height']} pixels")
    stages = metrics.get("seconds")
    if isinstance(stages, Mapping) and stages:
        parts.append(", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in stages.items()))
    if "device" in metrics:
        parts.append(f"on {metrics['device']}")
    return "; ".join([*parts, f"{elapsed_s:.1f} s in all"])


def _type_of(entry: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return the JSON type of an input, "file" for one that takes a file, "any" for a union."""
    for reference in entry.get("allOf", []):
        entry = schema["components"]["schemas"][reference["$ref"].rsplit("/", 1)[-1]]
    return "file" if entry.get("format") == "uri" else str(entry.get("type", "any"))


def _typed(name: str, value: str, kind: str) -> Any:  # noqa: ANN401 - a JSON value
    if value.startswith("@") and kind in ("file", "string", "any"):
        return _file(name, Path(value[1:]))
    if kind == "file":
        if value.startswith(("http://", "https://", "data:")):
            return value
        raise UsageError(f"{name} is a file: write {name}=@{value} for one on this machine, or an http(s) URL.")
    if kind == "string":
        return value
    parsed = _parsed(value)
    if not isinstance(parsed, _PYTHON_TYPES.get(kind, object)) or (kind in ("integer", "number") and parsed in (True, False) and isinstance(parsed, bool)):
        raise UsageError(f"{name} must be of type {kind}, not {value!r}.")
    return parsed


_PYTHON_TYPES: dict[str, Any] = {"integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}


def _parsed(value: str) -> Any:  # noqa: ANN401 - a JSON value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _file(name: str, path: Path) -> str:
    try:
        return data_url(path)
    except OSError as error:
        raise UsageError(f"{name}: {path} cannot be read ({error.strerror}).") from error


def _write(output: Any, request: Request) -> list[Path]:  # noqa: ANN401 - a JSON value
    values = output if isinstance(output, list) else [output]
    if not all(isinstance(value, str) and value.startswith("data:") for value in values):
        return []
    written = []
    for index, value in enumerate(values):
        content, suffix = read_output(value)
        path = _place(request, suffix, index if isinstance(output, list) else None)
        try:
            path.write_bytes(content)
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}); name another file with -o.") from error
        written.append(path)
    return written


def _place(request: Request, suffix: str, index: int | None) -> Path:
    """Return where an output goes: the name asked for, or one beside the photo; several are numbered."""
    path = request.output or _beside(request.inputs, suffix)
    return path if index is None else path.with_name(f"{path.stem}.{index}{path.suffix}")


def _beside(inputs: Mapping[str, str], suffix: str) -> Path:
    photo = next((Path(value[1:]) for value in inputs.values() if value.startswith("@")), None)
    return photo.with_name(f"{photo.stem}-restored{suffix}") if photo else Path(f"output{suffix}")
