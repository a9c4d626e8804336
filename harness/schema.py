"""Describe a predictor's signature as the OpenAPI document that Cog serves and validates by.

The `cog` command writes this file when it builds an image; without it a model server checks nothing that it is sent.
This module writes the same document without that command, in the same shape: components in Cog's order, inputs in the
order of the signature, every other object's keys alphabetical.

It reads the signature through the SDK's own inspector, which is private: hence the pinned SDK, and a test that
compares with what an independent release of Cog derives. Two things cannot be read at run time and differ from the
command's static parser: `Input(default=None)` looks like no default at all, so an input that is not optional is then
required, and `@cog.streaming` leaves no mark.
"""

from __future__ import annotations

import argparse
import enum
import importlib.util
import inspect
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from cog._adt import InputField, PredictorInfo, Repetition
from cog._inspector import create_predictor
from cog.input import FieldInfo

from harness.errors import SchemaError

PREDICTOR = "predict.py:Predictor"
"""The predictor that this repository's cog.yaml names."""

SCHEMA_FILE = Path(".cog/openapi_schema.json")
"""Where a model server looks for the document, from its working directory."""

_OPTIONAL = {Repetition.OPTIONAL, Repetition.OPTIONAL_REPEATED}


def openapi_schema(predictor: str = PREDICTOR, root: Path = Path(".")) -> dict[str, Any]:
    """Describe `predictor` ("file.py:Class", relative to `root`), importing it with `root` first on the path.

    Raises SchemaError when the file or class is absent, cannot be imported, or has a signature that Cog cannot serve.
    """
    with _imported(predictor, root) as (module, name):
        try:
            with warnings.catch_warnings():
                # predict() is this project's choice: it is the spelling that every version of Cog understands.
                warnings.simplefilter("ignore", DeprecationWarning)
                info = create_predictor(module.__name__, name)
            return _document(info, _declared(getattr(module, name)))
        except (ValueError, TypeError, ImportError, AssertionError) as error:
            raise SchemaError(f"{predictor} cannot be described: {error}.") from error


def render(document: Mapping[str, Any]) -> str:
    """Write the document as Cog does: compact JSON in the order given."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def write(path: Path, predictor: str = PREDICTOR, root: Path = Path(".")) -> None:
    """Write the document of `predictor` to `path`, making its directory. Raises SchemaError."""
    text = render(openapi_schema(predictor, root))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@contextmanager
def _imported(predictor: str, root: Path) -> Iterator[tuple[ModuleType, str]]:
    """Import "file.py:Class" afresh, as Cog does, and leave `sys.path` and `sys.modules` as they were."""
    file, _, name = predictor.partition(":")
    path, module_name = root.resolve() / file, Path(file).stem
    spec = importlib.util.spec_from_file_location(module_name, path) if path.is_file() else None
    if not name or spec is None or spec.loader is None:
        raise SchemaError(f"No predictor {predictor!r} in {root}: expected file.py:Class, and the file to exist.")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(module_name)
    sys.path.insert(0, str(path.parent))
    sys.modules[module_name] = module
    try:
        _execute(spec.loader, module, predictor)
        yield module, name
    finally:
        sys.path.remove(str(path.parent))
        sys.modules.pop(module_name, None)
        if before is not None:
            sys.modules[module_name] = before


def _execute(loader: Loader, module: ModuleType, predictor: str) -> None:
    try:
        loader.exec_module(module)
    except Exception as error:  # importing runs the author's code, which may raise anything
        raise SchemaError(f"{predictor} cannot be imported: {type(error).__name__}: {error}.") from error


def _declared(predictor: Any) -> dict[str, Any]:  # noqa: ANN401 # a class or a function
    """Return each input's default exactly as written; the inspector normalises it and drops `accept`."""
    method = "run" if getattr(predictor, "_run_owner", None) else "predict"
    function = getattr(predictor, method) if inspect.isclass(predictor) else predictor
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def _document(info: PredictorInfo, declared: Mapping[str, Any]) -> dict[str, Any]:
    properties = {name: _property(field, declared[name]) for name, field in info.inputs.items()}
    required = [name for name, entry in properties.items() if "default" not in entry]
    inputs = {"properties": properties, "required": required, "title": "Input", "type": "object"}
    if not required:
        del inputs["required"]
    output = {"type": "object"} | info.output.json_type()  # an output of any type has no `type` of its own
    choices = {name: _enumeration(field) for name, field in info.inputs.items() if field.choices}
    schemas = {"Input": inputs, "Output": _sorted(output), **choices, **_FIXED_SCHEMAS}
    return {
        "components": {"schemas": schemas},
        "info": {"title": "Cog", "version": version("cog")},
        "openapi": "3.0.2",
        "paths": _PATHS,
    }


def _property(field: InputField, declared: Any) -> Any:  # noqa: ANN401 # any default; a JSON object
    """Describe one input; `declared` is its default in the signature, an `Input(...)` or a plain value."""
    optional = field.type.repetition in _OPTIONAL
    entry: dict[str, Any] = {"x-order": field.order}
    if field.choices:
        entry["allOf"] = [{"$ref": f"#/components/schemas/{field.name}"}]
    else:
        entry |= {"title": _title(field.name)} | field.type.json_type()
    if optional:
        entry["nullable"] = True
    if field.default is not None or optional:
        entry["default"] = _default(field.name, declared)
    entry |= _constraints(field)
    if isinstance(declared, FieldInfo) and declared.accept is not None:
        entry["x-cog-accept"] = declared.accept
    return _sorted(entry)


def _constraints(field: InputField) -> dict[str, Any]:
    written = {
        "description": field.description,
        "deprecated": field.deprecated or None,
        "maximum": _number(field.le),
        "maxLength": field.max_length,
        "minimum": _number(field.ge),
        "minLength": field.min_length,
        "pattern": field.regex,
    }
    return {key: value for key, value in written.items() if value is not None}


def _default(name: str, declared: Any) -> Any:  # noqa: ANN401 # any JSON value
    value = declared.default if isinstance(declared, FieldInfo) else declared
    if value is inspect.Parameter.empty:
        return None
    value = _number(value.value if isinstance(value, enum.Enum) else value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise SchemaError(
            f"The default of input {name!r} is {value!r}, which JSON cannot express; use a literal."
        ) from None
    return value


def _enumeration(field: InputField) -> dict[str, Any]:
    kind: str = field.type.primitive.json_type()["type"]
    return {"description": "An enumeration.", "enum": field.choices, **_titled(field.name, kind)}


def _number(value: Any) -> Any:  # noqa: ANN401 # whatever is no whole float passes through
    """Write 2.0 as 2, as Cog's command does: its answers quote the number as the document spells it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _title(name: str) -> str:
    return name.replace("_", " ").title()


def _sorted(node: Any) -> Any:  # noqa: ANN401 # any JSON value
    if isinstance(node, dict):
        return {key: _sorted(node[key]) for key in sorted(node)}
    return [_sorted(item) for item in node] if isinstance(node, list) else node


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}, "description": description}


def _titled(title: str, kind: str = "string", **more: str) -> dict[str, str]:
    return {**more, "title": title, "type": kind}


_TIME = {"format": "date-time"}
_OK = _json("Successful Response", {})
_INVALID = _json("Validation Error", _reference("HTTPValidationError"))

_FIXED_SCHEMAS: dict[str, Any] = {
    "PredictionRequest": {
        "properties": {"id": _titled("Id"), "input": _reference("Input")},
        **_titled("PredictionRequest", "object"),
    },
    "PredictionResponse": {
        "properties": {
            "completed_at": _titled("Completed At", **_TIME),
            "created_at": _titled("Created At", **_TIME),
            "error": _titled("Error"),
            "id": _titled("Id"),
            "input": _reference("Input"),
            "logs": _titled("Logs"),
            "metrics": _titled("Metrics", "object"),
            "output": _reference("Output"),
            "started_at": _titled("Started At", **_TIME),
            "status": _titled("Status"),
            "version": _titled("Version"),
        },
        **_titled("PredictionResponse", "object"),
    },
    "Status": {
        "description": "An enumeration.",
        "enum": ["starting", "processing", "succeeded", "canceled", "failed"],
        **_titled("Status"),
    },
    "HTTPValidationError": {
        "properties": {"detail": {"items": _reference("ValidationError"), **_titled("Detail", "array")}},
        **_titled("HTTPValidationError", "object"),
    },
    "ValidationError": {
        "properties": {
            "loc": {"items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, **_titled("Location", "array")},
            "msg": _titled("Message"),
            "type": _titled("Error Type"),
        },
        "required": ["loc", "msg", "type"],
        **_titled("ValidationError", "object"),
    },
}

_PATHS: dict[str, Any] = {
    "/": {"get": {"operationId": "root__get", "responses": {"200": _OK}, "summary": "Root"}},
    "/health-check": {
        "get": {"operationId": "healthcheck_health_check_get", "responses": {"200": _OK}, "summary": "Healthcheck"}
    },
    "/predictions": {
        "post": {
            "description": "Run a single prediction on the model",
            "operationId": "predict_predictions_post",
            "requestBody": {"content": {"application/json": {"schema": _reference("PredictionRequest")}}},
            "responses": {
                "200": _json("Successful Response", _reference("PredictionResponse")),
                "422": _INVALID,
            },
            "summary": "Predict",
        }
    },
    "/predictions/{prediction_id}/cancel": {
        "post": {
            "operationId": "cancel_predictions__prediction_id__cancel_post",
            "parameters": [
                {"in": "path", "name": "prediction_id", "required": True, "schema": _titled("Prediction Id")}
            ],
            "responses": {"200": _OK, "422": _INVALID},
            "summary": "Cancel",
        }
    },
}


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m harness.schema`: write the document; one line and exit code 1 on failure."""
    parser = argparse.ArgumentParser(description="Write the OpenAPI document that Cog serves and validates by.")
    parser.add_argument("--predictor", default=PREDICTOR, metavar="FILE:CLASS", help="default: %(default)s")
    parser.add_argument("--root", type=Path, default=Path("."), metavar="DIR", help="where the predictor is")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=f"default: {SCHEMA_FILE} in DIR")
    options = parser.parse_args(arguments)
    try:
        write(options.output or options.root / SCHEMA_FILE, options.predictor, options.root)
    except SchemaError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
