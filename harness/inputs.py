"""Inputs as a person types them, turned into what a model's schema asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from harness.errors import UsageError
from harness.model_server.files import data_url

_PYTHON_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def parse_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """Split each `name=value` at its first equals sign. Raises UsageError."""
    parsed = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"An input is name=value, not {pair!r}; a file is name=@path.")
        parsed[name] = value
    return parsed


def typed_inputs(inputs: Mapping[str, str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what was typed into what the schema's types ask for; `@path` becomes a data URL.

    Raises:
        UsageError: a name that the model does not know, a value of the wrong type, or a file that cannot be read.
    """
    known = schema["components"]["schemas"]["Input"]["properties"]
    for name in inputs:
        if name not in known:
            names = ", ".join(sorted(known, key=lambda name: known[name].get("x-order", 0)))
            raise UsageError(f"The model has no input {name!r}; it has {names}.")
    return {name: _typed(name, value, _kind(known[name], schema)) for name, value in inputs.items()}


def first_file(inputs: Mapping[str, str]) -> Path | None:
    """Return the first `@path` among what was typed."""
    return next((Path(value[1:]) for value in inputs.values() if value.startswith("@")), None)


def _kind(entry: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return an input's JSON type; "file" for one that takes a file, "any" for a union."""
    for reference in entry.get("allOf", []):  # choices
        entry = schema["components"]["schemas"][reference["$ref"].rsplit("/", 1)[-1]]
    return "file" if entry.get("format") == "uri" else str(entry.get("type", "any"))


def _typed(name: str, value: str, kind: str) -> Any:  # noqa: ANN401 - a JSON value
    match kind:
        case "file":
            return _file(name, value)
        case "string":
            return value
        case "any":
            return _parsed(value)
    parsed = _parsed(value)
    if not isinstance(parsed, _PYTHON_TYPES[kind]) or (isinstance(parsed, bool) and kind != "boolean"):
        raise UsageError(f"{name} must be of type {kind}, not {value!r}.")
    return parsed


def _file(name: str, value: str) -> str:
    if value.startswith(("http://", "https://", "data:")):
        return value
    if not value.startswith("@"):
        raise UsageError(f"{name} is a file: write {name}=@{value} for one on this machine, or an http(s) URL.")
    try:
        return data_url(Path(value[1:]))
    except OSError as error:
        raise UsageError(f"{name}: {value[1:]} cannot be read ({error.strerror}).") from error


def _parsed(value: str) -> Any:  # noqa: ANN401 - a JSON value
    try:
        return json.loads(value)
    except ValueError:
        return value
