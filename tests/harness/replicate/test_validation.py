"""What is refused, and how the refusal reads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replicate_in_thread import DOCUMENT, PNG_URL, Replicate, replicate

from harness.errors import Problem
from harness.replicate.tables import JsonValue
from harness.replicate.validation import InputSchema

SCHEMA = InputSchema(DOCUMENT)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicate]:
    with replicate(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"img": None}, {"type": "invalid_type", "field": "input.img"}),
        ({"img": 3}, {"type": "invalid_type", "field": "input.img"}),
        ({"img": "/etc/passwd"}, {"type": "format", "field": "input.img"}),
        ({"img": "file:///etc/passwd"}, {"type": "format", "field": "input.img"}),
        ({"img": "data:image/png;base64,@@@@"}, {"type": "format", "field": "input.img"}),
        ({"img": "data:image/png;base64,"}, {"type": "format", "field": "input.img"}),
        ({"scale": 5}, {"type": "number_lte", "description": "Must be less than or equal to 4"}),
        ({"scale": 0.5}, {"type": "number_gte", "description": "Must be greater than or equal to 1"}),
        ({"scale": "2"}, {"type": "invalid_type", "description": "Invalid type. Expected: number"}),
        ({"seed": 1.5}, {"type": "invalid_type", "field": "input.seed"}),
        ({"version": "v9"}, {"type": "enum", "field": "input.version"}),
    ],
)
def test_a_wrong_input_is_named_as_the_service_names_it(
    shared: Replicate, wrong: JsonValue, expected: dict[str, str]
) -> None:
    refused = shared.create(input={"img": PNG_URL} | wrong)
    assert refused.status_code == 422
    assert refused.json()["title"] == "Input validation failed"
    [field] = refused.json()["invalid_fields"]
    assert expected.items() <= field.items()


def test_a_missing_input_is_named(shared: Replicate) -> None:
    [field] = shared.create(input={}).json()["invalid_fields"]
    assert field == {"type": "required", "field": "input", "description": "img is required"}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, [("required", "input is required"), ("required", "version is required")]),
        ({"inptu": {}}, [("additional_property_not_allowed", "Additional property inptu is not allowed")]),
        ({"input": [], "version": 3}, [("invalid_type", "Invalid type. Expected: object")]),
        ({"webhook": "notaurl"}, [("format", "Does not match format 'uri': expected an http or https URL")]),
        ({"webhook_events_filter": ["ended"]}, [("enum", "must be a list of: start, output, logs, completed")]),
        ({"webhook_events_filter": "start"}, [("enum", "must be a list of: start, output, logs, completed")]),
        ({"webhook_events_filter": [{}]}, [("enum", "must be a list of: start, output, logs, completed")]),
    ],
)
def test_a_wrong_request_is_named_as_the_service_names_it(
    shared: Replicate, body: JsonValue, fields: list[JsonValue]
) -> None:
    refused = shared.post("/v1/predictions", json=body)
    assert refused.status_code == 422
    named = [(field["type"], field["description"]) for field in refused.json()["invalid_fields"]]
    assert set(fields) <= set(named)


def test_an_optional_null_is_left_out(shared: Replicate) -> None:
    made = shared.create(input={"img": PNG_URL, "seed": None, "scale": None})
    assert made.json()["input"] == {"img": PNG_URL}


def test_the_token_that_a_client_posts_by_mistake_is_not_kept(shared: Replicate) -> None:
    own = {"auth": "r8_a-very-secret-token", "userAgent": "replicate-javascript/1.4.0", "baseUrl": "http://x/v1"}
    refused = shared.create(input=own)
    assert refused.status_code == 422
    assert "fileEncodingStrategy" in refused.json()["hint"]
    assert "very-secret" not in refused.text
    data = shared.service.settings.data
    assert not any(b"very-secret" in path.read_bytes() for path in data.rglob("*") if path.is_file())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["img", "version", "scale", "seed", "other"]), json_values))
def test_any_input_is_cleaned_or_refused_with_reasons(value: dict[str, JsonValue]) -> None:
    try:
        used, _ = SCHEMA.clean(value)
    except Problem as refused:
        reasons = refused.body["invalid_fields"]
        if not reasons:
            raise
        return
    assert used.keys() <= {"img", "version", "scale", "seed"}
    assert isinstance(used["img"], str)
    assert 1 <= used.get("scale", 2) <= 4
