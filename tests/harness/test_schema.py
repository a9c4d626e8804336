"""The OpenAPI document is what Cog validates by: a wrong one lets bad input through, or turns good input away.

Write the golden copy of our own predictor's document by `python -m harness.schema -o tests/golden/openapi_schema.json`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.errors import SchemaError
from harness.schema import main, openapi_schema, render

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests/golden/openapi_schema.json"
ORACLE = "cog==0.16.12"  # the last release of the SDK that can print the document

HEADER = """
from __future__ import annotations
import enum
from typing import Any, Iterator, Optional
from cog import BaseModel, BasePredictor, ConcatenateIterator, File, Input, Path, Secret

class Predictor(BasePredictor):
"""


def write_predictor(root: Path, inputs: str, returns: str = "str", before: str = "") -> Path:
    method = f"    def predict(self, {inputs}) -> {returns}:\n        return None\n"
    (root / "predict.py").write_text(HEADER.replace("\nclass", f"\n{textwrap.dedent(before)}\n\nclass") + method)
    return root


def describe(root: Path, inputs: str, returns: str = "str", before: str = "") -> dict[str, Any]:
    schemas: dict[str, Any] = openapi_schema(root=write_predictor(root, inputs, returns, before))["components"][
        "schemas"
    ]
    return schemas


def one_input(root: Path, annotation: str) -> dict[str, Any]:
    entry: dict[str, Any] = describe(root, f"the_input: {annotation}")["Input"]["properties"]["the_input"]
    assert entry.pop("title") == "The Input"
    assert entry.pop("x-order") == 0
    return entry


# --- each type and each argument of Input() -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("str", {"type": "string"}),
        ("int", {"type": "integer"}),
        ("float", {"type": "number"}),
        ("bool", {"type": "boolean"}),
        ("Path", {"format": "uri", "type": "string"}),
        ("File", {"format": "uri", "type": "string"}),
        ("Secret", {"format": "password", "type": "string", "writeOnly": True, "x-cog-secret": True}),
        ("dict", {"type": "object"}),
        ("Any", {"type": "object"}),
        ("list[int]", {"items": {"type": "integer"}, "type": "array"}),
        ("list[Path]", {"items": {"format": "uri", "type": "string"}, "type": "array"}),
        ("int | str", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ("Optional[int]", {"default": None, "nullable": True, "type": "integer"}),
        ("int | None = Input(default=None)", {"default": None, "nullable": True, "type": "integer"}),
        ("Optional[list[str]]", {"default": None, "items": {"type": "string"}, "nullable": True, "type": "array"}),
    ],
)
def test_each_type_becomes_its_json_schema(tmp_path: Path, annotation: str, expected: dict[str, Any]) -> None:
    assert one_input(tmp_path, annotation) == expected


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ('str = "x"', {"default": "x", "type": "string"}),
        ("float = Input(default=2.0)", {"default": 2, "type": "number"}),
        (
            "float = Input(default=0.5, ge=0.1, le=10)",
            {"default": 0.5, "maximum": 10, "minimum": 0.1, "type": "number"},
        ),
        ('str = Input(default="ab", min_length=1, max_length=9)', {"default": "ab", "maxLength": 9, "minLength": 1}),
        ('str = Input(default="ab", regex="^a")', {"default": "ab", "pattern": "^a"}),
        ('str = Input(description="What it does")', {"description": "What it does"}),
        ("int = Input(default=1, deprecated=True)", {"default": 1, "deprecated": True}),
        ("int = Input(default=1, deprecated=False)", {"default": 1}),
        ('Path = Input(accept="image/*")', {"x-cog-accept": "image/*"}),
        ('Path = Input(default="https://example.com/a.png")', {"default": "https://example.com/a.png"}),
        ("bool = Input(default=False)", {"default": False}),
    ],
)
def test_each_argument_of_input_becomes_its_key(tmp_path: Path, annotation: str, expected: dict[str, Any]) -> None:
    entry = one_input(tmp_path, annotation)
    assert {key: value for key, value in entry.items() if key not in {"type", "format"} or key in expected} == expected


def test_whole_floats_are_written_as_integers(tmp_path: Path) -> None:
    entry = one_input(tmp_path, "float = Input(default=2.0, ge=1.0, le=4.0)")
    assert json.dumps(entry, sort_keys=True) == '{"default": 2, "maximum": 4, "minimum": 1, "type": "number"}'


@pytest.mark.parametrize(("kind", "choices"), [("str", ["b", "a"]), ("int", [3, 1])])
def test_choices_become_a_component_named_after_the_input(tmp_path: Path, kind: str, choices: list[Any]) -> None:
    schemas = describe(tmp_path, f"which: {kind} = Input(default={choices[0]!r}, choices={choices!r})")
    json_type = {"str": "string", "int": "integer"}[kind]
    assert schemas["which"] == {
        "description": "An enumeration.",
        "enum": choices,
        "title": "which",
        "type": json_type,
    }
    assert schemas["Input"]["properties"]["which"] == {
        "allOf": [{"$ref": "#/components/schemas/which"}],
        "default": choices[0],
        "x-order": 0,
    }


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ("Path", {"format": "uri", "type": "string"}),
        ("dict", {"type": "object"}),
        ("Any", {"type": "object"}),
        ("list[Path]", {"items": {"format": "uri", "type": "string"}, "type": "array"}),
        ("Iterator[str]", {"items": {"type": "string"}, "type": "array", "x-cog-array-type": "iterator"}),
        (
            "ConcatenateIterator[str]",
            {
                "items": {"type": "string"},
                "type": "array",
                "x-cog-array-display": "concatenate",
                "x-cog-array-type": "iterator",
            },
        ),
        (
            "Faces",
            {
                "properties": {
                    "best": {"format": "uri", "title": "Best", "type": "string"},
                    "how_many": {"nullable": True, "title": "How Many", "type": "integer"},
                },
                "required": ["best"],
                "type": "object",
            },
        ),
    ],
)
def test_each_output_becomes_its_json_schema(tmp_path: Path, returns: str, expected: dict[str, Any]) -> None:
    faces = "class Faces(BaseModel):\n    best: Path\n    how_many: Optional[int] = None"
    assert describe(tmp_path, "x: str", returns, before=faces)["Output"] == {"title": "Output", **expected}


# --- the document as a whole ----------------------------------------------------------------------------------------


def test_components_and_inputs_keep_cogs_order_and_all_else_is_alphabetical(tmp_path: Path) -> None:
    inputs = 'zebra: Path, which: str = Input(default="b", choices=["b", "a"]), apple: int = 1'
    document = openapi_schema(root=write_predictor(tmp_path, inputs, "list[Path]"))
    schemas = document["components"]["schemas"]
    assert list(schemas) == [
        "Input",
        "Output",
        "which",
        "PredictionRequest",
        "PredictionResponse",
        "Status",
        "HTTPValidationError",
        "ValidationError",
    ]
    assert list(schemas["Input"]["properties"]) == ["zebra", "which", "apple"]
    assert list(document["paths"]) == [
        "/",
        "/health-check",
        "/predictions",
        "/predictions/{prediction_id}/cancel",
    ]
    ordered = {id(schemas), id(schemas["Input"]["properties"]), id(document["paths"])}
    assert [list(node) for node in objects(document) if id(node) not in ordered and list(node) != sorted(node)] == []


def objects(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from objects(child)


def test_required_lists_inputs_without_a_default_and_vanishes_when_there_are_none(tmp_path: Path) -> None:
    inputs = "a: str, b: int = Input(), c: Optional[int] = None, d: int = 1, e: int = Input(default=None)"
    assert describe(tmp_path, inputs)["Input"]["required"] == ["a", "b", "e"]
    assert "required" not in describe(tmp_path, "d: int = 1")["Input"]


def test_functions_and_run_methods_are_described_too(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(
        "from cog import BaseRunner, Input\n"
        "def function(x: int = Input(default=3)) -> str: ...\n"
        "class Runner(BaseRunner):\n    def run(self, x: int = Input(default=4)) -> str: ...\n"
    )
    for name, default in ("function", 3), ("Runner", 4):
        schemas = openapi_schema(f"other.py:{name}", tmp_path)["components"]["schemas"]
        assert schemas["Input"]["properties"]["x"]["default"] == default


def test_a_predictor_can_import_its_neighbours_and_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_predictor.py").write_text("LIMIT = 7\n")
    before = list(sys.path), sys.modules.get("predict")
    limit = describe(tmp_path, "x: int = Input(default=1, le=LIMIT)", before="from neighbour_of_predictor import LIMIT")
    assert limit["Input"]["properties"]["x"]["maximum"] == 7
    assert (list(sys.path), sys.modules.get("predict")) == before


@pytest.mark.parametrize(
    ("inputs", "returns", "says"),
    [
        ("x", "str", "missing type annotation for input: x"),
        ("x: complex", "str", "unsupported Cog type complex"),
        ("x: str", "Optional[str]", "output must not be Optional"),
        ("x: str = Input(choices=['only'])", "str", "must have >= 2 elements"),
        ("x: int = Input(default=9, le=3)", "str", "must be at maximum 3"),
        ("x: str = Input(ge=1)", "str", "incompatible input type for ge/le"),
        ("x: float = Input(default=float('inf'))", "str", "input 'x' is inf, which JSON cannot express"),
        ("x: undefined.name", "str", "'x'|undefined"),
        ("*x: str", "str", "must not have"),
    ],
)
def test_a_signature_that_cannot_be_served_is_named(tmp_path: Path, inputs: str, returns: str, says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        describe(tmp_path, inputs, returns)


@pytest.mark.parametrize(
    ("predictor", "says"),
    [
        ("absent.py:Predictor", "No predictor 'absent.py:Predictor'"),
        ("predict.py", "expected file.py:Class"),
        ("predict.py:Absent", "Absent"),
        ("notes.txt:Predictor", "expected file.py:Class"),
        ("broken.py:Predictor", "cannot be imported: ZeroDivisionError"),
        ("plain.py:Predictor", "run or predict method not found"),
    ],
)
def test_a_predictor_that_cannot_be_loaded_is_named(tmp_path: Path, predictor: str, says: str) -> None:
    write_predictor(tmp_path, "x: str")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "plain.py").write_text("class Predictor:\n    pass\n")
    with pytest.raises(SchemaError, match=says):
        openapi_schema(predictor, tmp_path)


def test_the_command_writes_the_file_where_a_model_server_looks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_predictor(tmp_path, "x: str")
    assert main(["--root", str(tmp_path)]) == 0
    written = (tmp_path / ".cog/openapi_schema.json").read_text()
    assert written == render(openapi_schema(root=tmp_path))
    assert "\n" not in written
    assert main(["--root", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("SCHEMA: No predictor")


# --- our own predictor ----------------------------------------------------------------------------------------------


def test_our_predictor_matches_the_committed_document() -> None:
    """A change here is a change of the public interface: see that it breaks no client, then write the file again."""
    document = openapi_schema(root=REPOSITORY)
    golden = json.loads(GOLDEN.read_text())
    assert document == golden
    assert render(document) == GOLDEN.read_text()


# --- the independent oracle -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def oracle_python(request: pytest.FixtureRequest) -> Path:
    """Return an interpreter with the oracle's SDK, installed once and kept in pytest's cache."""
    home = request.config.cache.mkdir("cog-oracle") if request.config.cache else pytest.skip("no pytest cache")
    python = home / "bin/python"
    if not (home / "installed").exists():
        venv.create(home, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ORACLE]
        installed = subprocess.run(pip, capture_output=True, text=True, timeout=240, check=False)
        if installed.returncode:
            pytest.skip(f"{ORACLE} cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
        (home / "installed").touch()
    return python


def ask_oracle(python: Path, root: Path, **environment: str) -> dict[str, Any]:
    """Return the document that the oracle derives from `predict.py` in `root`."""
    (root / "cog.yaml").write_text('build:\n  python_version: "3.11"\npredict: "predict.py:Predictor"\n')
    command = [str(python), "-m", "cog.command.openapi_schema"]
    done = subprocess.run(
        command, cwd=root, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert "components" in document, f"the oracle could not import the predictor: {document}"
    return document


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """Leave what both generators mean to say alike: inputs, output and choices; and no explicit null default."""
    models = {"PredictionRequest", "PredictionResponse", "WebhookEvent"}
    schemas = {name: schema for name, schema in document["components"]["schemas"].items() if name not in models}
    for entry in schemas["Input"]["properties"].values():
        if entry.get("nullable") and entry.get("default", ...) is None:
            del entry["default"]
    return schemas


def test_the_oracle_derives_the_same_document_for_every_kind_of_input(tmp_path: Path, oracle_python: Path) -> None:
    write_predictor(
        tmp_path,
        """
        image: Path = Input(description="A photo"),
        version: str = Input(description="Which", default="v1.4", choices=["v1.3", "v1.4"]),
        size: int = Input(default=2, choices=[1, 2, 4]),
        scale: float = Input(default=2.0, ge=0.1, le=10),
        name: str = Input(default="ab", min_length=1, max_length=9, regex="^a"),
        seed: Optional[int] = Input(default=None, description="Seed"),
        fast: bool = False,
        words: list[str] = Input(description="Words"),
        key: Secret = Input(description="Key"),
        old: int = Input(default=1, deprecated=True),
        """,
        "Path",
    )
    expected = comparable(ask_oracle(oracle_python, tmp_path))
    ours = comparable(openapi_schema(root=tmp_path))
    # 0.16.12 takes every `Input(default=None)`, even of a type that is not optional, as omittable.
    assert set(expected["Input"].pop("required", [])) <= set(ours["Input"].pop("required"))
    assert ours == expected


STUB = """
import sys
from unittest.mock import MagicMock

class Anything:
    def find_spec(self, name, path=None, target=None):
        from importlib.machinery import ModuleSpec
        return ModuleSpec(name, self) if name.split(".")[0] == "restoration" else None
    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__path__ = []
        return module
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Anything())
"""


def test_the_oracle_derives_the_same_document_for_our_predictor(tmp_path: Path, oracle_python: Path) -> None:
    """The oracle has neither our engine, which becomes a stub, nor an eye for annotations that are not evaluated."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "sitecustomize.py").write_text(STUB)
    source = (REPOSITORY / "predict.py").read_text()
    (tmp_path / "predict.py").write_text(source.replace("from __future__ import annotations\n", ""))
    expected = comparable(ask_oracle(oracle_python, tmp_path, PYTHONPATH=str(stubs)))
    assert comparable(openapi_schema(root=REPOSITORY)) == expected


# --- the real server enforces the file ------------------------------------------------------------------------------


@pytest.fixture
def toy_server(tmp_path: Path) -> Iterator[str]:
    """Run Cog's own server on a toy predictor with its generated document; give its address once it is ready."""
    choice, limits = 'Input(default="a", choices=["a", "b"])', "Input(default=2.0, ge=1, le=4)"
    write_predictor(tmp_path, f"image: Path, version: str = {choice}, scale: float = {limits}")
    text = (tmp_path / "predict.py").read_text().replace("return None", 'return f"{version} {float(scale)}"')
    (tmp_path / "predict.py").write_text(text)
    assert main(["--root", str(tmp_path)]) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # Cog starts its worker as `python`
        "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
        "PORT": str(port),
    }
    command = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


def wait_until_ready(url: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health-check").json()["status"] == "READY":
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"{url} was not ready within {timeout_s} s")


def violations(url: str, sent: dict[str, Any]) -> dict[str, str]:
    answer = httpx.post(f"{url}/predictions", json={"input": sent})
    assert answer.status_code == 422, answer.text
    return {entry["loc"][-1]: entry["msg"] for entry in answer.json()["detail"]}


def test_cogs_server_enforces_the_generated_document(toy_server: str, tmp_path: Path) -> None:
    image = "data:text/plain;base64,aGVsbG8="
    served = httpx.get(f"{toy_server}/openapi.json").json()
    assert served == json.loads((tmp_path / ".cog/openapi_schema.json").read_text())
    assert violations(toy_server, {}) == {"image": "Field required"}
    assert violations(toy_server, {"image": image, "scale": 9, "version": "z"}) == {
        "scale": "9 is greater than the maximum of 4",
        "version": '"z" is not one of ["a","b"]',
    }
    assert violations(toy_server, {"image": image, "scale": "big"}) == {"scale": '"big" is not of type "number"'}
    good = httpx.post(f"{toy_server}/predictions", json={"input": {"image": image, "version": "b"}}).json()
    assert (good["status"], good["output"]) == ("succeeded", "b 2.0")
