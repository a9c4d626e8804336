"""The fuzz must make equal calls from equal seeds, calls that the schema means, and judge answers as a caller would."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, find, given, settings
from PIL import Image

from harness.errors import InputRejected
from harness.model_server.client import Outcome
from harness.release.compat import resolve
from harness.release.fuzz import judge, leaked_path
from harness.release.strategies import Call, calls, pictures, values

GOLDEN = Path(__file__).parents[2] / "golden" / "openapi_schema.json"
DOCUMENT = json.loads(GOLDEN.read_text())
Answer = Outcome | InputRejected
CALL = Call({"img": "data:,"}, valid=True)


def validator() -> jsonschema.Draft202012Validator:
    whole = DOCUMENT["components"]["schemas"]["Input"]
    properties = {name: resolve(node, DOCUMENT) for name, node in whole["properties"].items()}
    return jsonschema.Draft202012Validator({**whole, "properties": properties})


@given(calls(DOCUMENT))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_a_call_is_what_the_schema_takes_exactly_if_it_says_so(call: Call) -> None:
    assert validator().is_valid(call.inputs) == call.valid, call


@pytest.mark.parametrize(
    "wanted",
    [
        lambda call: not call.valid,
        lambda call: call.inputs.get("scale") == 10,
        lambda call: call.inputs.get("background") == "real-esrgan",
        lambda call: str(call.inputs["img"]).startswith("/etc"),
        lambda call: "version" not in call.inputs,
    ],
    ids=["forbidden", "at a bound", "another choice", "a path", "left out"],
)
def test_every_kind_of_call_is_made(wanted: Callable[[Call], bool]) -> None:
    assert find(calls(DOCUMENT), wanted, settings=settings(max_examples=2000, database=None))


@pytest.mark.parametrize(
    "node",
    [
        {"type": "string", "pattern": "^[a-c]{2}$"},
        {"type": "string", "minLength": 50},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 1},
        {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
        {"type": "number", "minimum": 0, "maximum": 1},
    ],
)
def test_values_of_every_type_are_those_of_the_schema(node: dict[str, Any]) -> None:
    @given(values(node))
    @settings(max_examples=20)
    def holds(value: object) -> None:
        jsonschema.validate(value, node)

    holds()


@given(pictures())
@settings(max_examples=30)
def test_pictures_are_whole_before_they_are_damaged(content: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Image.open(io.BytesIO(content)).load()


PICTURE = Outcome("1", "succeeded", "data:image/png;base64,AAAA")
FAILED = Outcome("1", "failed", error="[NOT_AN_IMAGE] send another.")


def gave(output: object) -> Outcome:
    return replace(PICTURE, output=output)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (PICTURE, PICTURE, None),
        (PICTURE, gave("data:image/png;base64,AAAB"), "FUZZ_NOT_DETERMINISTIC"),
        (gave(None), gave(None), "FUZZ_NO_OUTPUT"),
        (gave("/tmp/out/a.png"), gave("/tmp/out/a.png"), "FUZZ_PATH_LEAK"),
        (PICTURE, FAILED, "FUZZ_NOT_DETERMINISTIC"),
        (FAILED, FAILED, None),
        (replace(FAILED, error=""), replace(FAILED, error=""), "FUZZ_UNCLEAR_ERROR"),
        (InputRejected("img: not a URL"), InputRejected("img: not a URL"), "FUZZ_REJECTED"),
    ],
)  # fmt: skip
def test_two_answers_are_judged_as_a_caller_would(first: Answer, second: Answer, code: str | None) -> None:
    verdict = judge(CALL, first, second)
    assert (verdict.code if verdict else None) == code


def test_inputs_that_the_schema_forbids_must_be_refused() -> None:
    wrong = Call({"scale": 99}, valid=False)
    accepted = judge(wrong, PICTURE, PICTURE)
    assert accepted is not None
    assert accepted.code == "FUZZ_ACCEPTED"
    assert judge(wrong, InputRejected("scale"), InputRejected("scale")) is None


@pytest.mark.parametrize(
    ("error", "path"),
    [
        ("cannot open /src/weights/a.pth", "/src/weights/a.pth"),
        ("cannot open '/root/.cache/x'", "/root/.cache/x"),
        (r"cannot open C:\Users\me\a.pth", r"C:\Users\me\a.pth"),
        ("[UNSUPPORTED_FORMAT] send one of JPEG/PNG, not image/png", None),
        ("fetch https://example.com/a/b.png failed", None),
        ("scale 1/2 of 3/4 is too small", None),
        ("/etc/hostname is not an uploaded file", None),
    ],
)
def test_a_path_of_the_machine_is_told_from_other_text(error: str, path: str | None) -> None:
    inputs = {"img": "/etc/hostname"}
    assert leaked_path(inputs, replace(FAILED, error=error)) == path


def test_files_in_an_output_are_not_searched_for_paths() -> None:
    assert leaked_path({}, gave(["data:image/png;base64,AA/bin/sh/AA"])) is None


def test_choices_that_are_fast_are_taken_most_of_the_time() -> None:
    drawn: list[str] = []

    @given(calls(DOCUMENT))
    @settings(max_examples=50, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    def collect(call: Call) -> None:
        drawn.append(str(call.inputs.get("background")))

    collect()
    assert drawn.count("lanczos") > len(drawn) / 2
