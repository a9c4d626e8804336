"""A caller of the live version must never be broken unnoticed: schemas that were made up, widened and narrowed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import SchemaError
from harness.release.compat import compare

GOLDEN = Path(__file__).parents[2] / "golden" / "openapi_schema.json"
Node = dict[str, Any]


def document(inputs: Node | None = None, output: Node | None = None, **components: Node) -> Node:
    """An OpenAPI document with these inputs, by name, and this output."""
    whole = {"type": "object", "properties": inputs or {}}
    schemas = {"Input": whole, "Output": output or {"type": "string", "format": "uri"}, **components}
    return {"components": {"schemas": schemas}}


def changed(live: Node, new: Node) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in compare(live, new)]


def one_input(live: Node, new: Node) -> list[tuple[str, str]]:
    """Compare two versions of one input that has a default."""
    return changed(*(document({"x": {"default": None, **node}}) for node in (live, new)))


def outputs(live: Node, new: Node) -> list[tuple[str, str]]:
    return changed(document(output=live), document(output=new))


# --- made-up schemas ------------------------------------------------------------------------------------------------

TEXT = {"type": "string"}
REFERENCE = {"$ref": "#/components/schemas/x"}
bounds = st.integers(-20, 20)
leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, bounds, st.integers(0, 9)),
    st.builds(lambda low: {"type": "number", "minimum": low}, bounds),
    st.builds(lambda least: {"type": "string", "minLength": least, "maxLength": least + 5}, st.integers(0, 5)),
    st.builds(lambda pattern: {"type": "string", "pattern": pattern}, st.sampled_from(["^a", "b+$"])),
    st.just({"type": "string", "format": "uri"}),
    st.builds(
        lambda choices: {"type": "string", "enum": choices},
        st.lists(st.sampled_from("abcdef"), min_size=2, max_size=4, unique=True),
    ),
)
nodes = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda a, b: {"type": "object", "properties": {"a": a, "b": b}, "required": ["a"]}, inner, inner),
    ),
    max_leaves=4,
)


@st.composite
def widened(draw: st.DrawFn, node: Node) -> Node:
    """A schema that takes all that `node` takes, and more."""
    ways: list[Node] = [{**node, "nullable": True}, {"anyOf": [node, {"type": "object", "x-other": 1}]}]
    for key in ("minimum", "maximum", "minLength", "maxLength", "pattern", "enum"):
        if key in node:
            ways.append({name: value for name, value in node.items() if name != key})
    ways += [{**node, key: node[key] - 1} for key in ("minimum", "minLength") if node.get(key, 0) > 0]
    ways += [{**node, key: node[key] + 1} for key in ("maximum", "maxLength") if key in node]
    if "enum" in node:
        ways.append({**node, "enum": [*node["enum"], "new"]})
    if "items" in node:
        ways.append({**node, "items": draw(widened(node["items"]))})
    if "properties" in node:
        ways += [{**node, "required": []}, {**node, "properties": {**node["properties"], "c": TEXT}}]
        ways.append({**node, "properties": {**node["properties"], "b": draw(widened(node["properties"]["b"]))}})
    return draw(st.sampled_from(ways))


pairs = nodes.flatmap(lambda node: st.tuples(st.just(node), widened(node)))


@given(nodes)
def test_a_schema_is_compatible_with_itself(node: Node) -> None:
    assert one_input(node, copy.deepcopy(node)) == []
    assert outputs(node, copy.deepcopy(node)) == []


@given(pairs)
@settings(max_examples=200)
def test_an_input_may_widen_and_never_narrow(pair: tuple[Node, Node]) -> None:
    narrow, wide = pair
    assert {severity for _, severity in one_input(narrow, wide)} == {"allowed"}
    assert "breaking" in {severity for _, severity in one_input(wide, narrow)}


def adds_a_property(pair: tuple[Node, Node]) -> bool:
    return '"c": {' in json.dumps(pair[1])


@given(pairs.filter(lambda pair: not adds_a_property(pair)))  # one more property in an answer hurts nobody
@settings(max_examples=200)
def test_an_output_may_narrow_and_never_widen(pair: tuple[Node, Node]) -> None:
    narrow, wide = pair
    assert {severity for _, severity in outputs(wide, narrow)} == {"allowed"}
    assert "breaking" in {severity for _, severity in outputs(narrow, wide)}


@given(nodes, nodes)
def test_any_two_schemas_can_be_compared_and_equal_ones_alone_say_nothing(one: Node, other: Node) -> None:
    assert (one_input(one, other) == []) == (one == other or set_of(one) == set_of(other))


def set_of(node: Node) -> str:
    """A schema with its choices in order: their order changes nothing."""

    def ordered(each: Node) -> Node:
        return {**each, "enum": sorted(each["enum"])} if "enum" in each else each

    return json.dumps(json.loads(json.dumps(node), object_hook=ordered), sort_keys=True)


# --- the rules, one by one --------------------------------------------------------------------------------------------


def test_our_own_document_is_compatible_with_itself() -> None:
    own = json.loads(GOLDEN.read_text())
    assert compare(own, own) == []


def test_a_reference_to_choices_is_followed() -> None:
    entry = {"allOf": [{"$ref": "#/components/schemas/tone"}], "default": "a"}
    live = document({"tone": entry}, tone={"type": "string", "enum": ["a", "b"]})
    new = document({"tone": entry}, tone={"type": "string", "enum": ["a", "c"]})
    assert changed(live, new) == [("INPUT_CHOICE_REMOVED", "breaking"), ("INPUT_CHOICE_ADDED", "allowed")]


def test_a_bare_reference_is_followed() -> None:
    entry = {"$ref": "#/components/schemas/Size", "default": 1}
    live = document({"size": entry}, Size={"type": "integer", "maximum": 4})
    new = document({"size": entry}, Size={"type": "integer", "maximum": 3})
    assert changed(live, new) == [("INPUT_MAXIMUM", "breaking")]


@pytest.mark.parametrize(
    ("live", "new", "found"),
    [
        ({**TEXT, "enum": ["a", "b"]}, TEXT, [("INPUT_CHOICES_DROPPED", "allowed")]),
        (TEXT, {**TEXT, "enum": ["a", "b"]}, [("INPUT_CHOICES_ADDED", "breaking")]),
        ({**TEXT, "enum": ["1", "2"]}, {"type": "integer", "enum": [1, 2]}, [("INPUT_TYPE", "breaking")]),
        ({"type": "integer"}, {"type": "number"}, [("INPUT_TYPE", "breaking")]),
        ({**TEXT, "format": "uri"}, {**TEXT, "format": "password"}, [("INPUT_FORMAT", "breaking")]),
        ({**TEXT, "pattern": "a"}, {**TEXT, "pattern": "b"}, [("INPUT_PATTERN", "breaking")]),
        (TEXT, {**TEXT, "maxLength": 9}, [("INPUT_MAX_LENGTH", "breaking")]),
        ({**TEXT, "minLength": 2}, {**TEXT, "minLength": 3}, [("INPUT_MIN_LENGTH", "breaking")]),
        ({**TEXT, "nullable": True}, TEXT, [("INPUT_NULLABLE", "breaking")]),
        ({**TEXT, "default": "a"}, {**TEXT, "default": "b"}, [("INPUT_DEFAULT", "allowed")]),
        ({**TEXT, "x-cog-secret": True}, TEXT, [("INPUT_KEYWORD", "breaking")]),
        ({"anyOf": [TEXT, {"type": "integer"}]}, TEXT, [("INPUT_ALTERNATIVE_REMOVED", "breaking")]),
        (TEXT, {"anyOf": [{"type": "integer"}, TEXT]}, [("INPUT_ALTERNATIVE_ADDED", "allowed")]),
        ({"anyOf": [TEXT, {"type": "integer"}]}, {"anyOf": [{"type": "integer"}, TEXT]}, []),
        ({"type": "array", "items": TEXT}, {"type": "array", "items": {}}, [("INPUT_TYPE", "breaking")]),
    ],
)  # fmt: skip
def test_each_rule_for_an_input(live: Node, new: Node, found: list[tuple[str, str]]) -> None:
    assert one_input(live, new) == found


def test_a_new_input_without_a_default_counts_as_required_even_if_null_is_a_value() -> None:
    assert changed(document(), document({"x": {**TEXT, "nullable": True}})) == [("INPUT_NEW_REQUIRED", "breaking")]
    assert changed(document(), document({"x": {**TEXT, "default": "a"}})) == [("INPUT_NEW", "allowed")]


def test_an_input_may_become_optional_and_not_the_reverse() -> None:
    needed, optional = document({"x": TEXT}), document({"x": {**TEXT, "default": "a"}})
    assert ("INPUT_OPTIONAL", "allowed") in changed(needed, optional)
    assert ("INPUT_REQUIRED", "breaking") in changed(optional, needed)


@pytest.mark.parametrize(
    ("new", "found"),
    [
        ({"type": "object", "properties": {"file": TEXT}, "required": ["file"]}, [("OUTPUT_REMOVED", "breaking")]),
        ({"type": "object", "properties": {"file": TEXT, "boxes": {"type": "array", "items": TEXT}}},
         [("OUTPUT_OPTIONAL", "breaking"), ("OUTPUT_TYPE", "breaking")]),
    ],
)  # fmt: skip
def test_an_output_is_compared_in_its_depth(new: Node, found: list[tuple[str, str]]) -> None:
    boxes = {"type": "array", "items": {"type": "number"}}
    live = {"type": "object", "properties": {"file": TEXT, "boxes": boxes}, "required": ["file"]}
    assert outputs(live, new) == found


def test_the_place_of_a_nested_change_is_named() -> None:
    live = {"type": "array", "items": {"type": "object", "properties": {"width": {"type": "integer"}}}}
    new = {"type": "array", "items": {"type": "object", "properties": {"width": {"type": "string"}}}}
    (finding,) = compare(document(output=live), document(output=new))
    assert finding.message == "Output [].width: the type was 'integer' and is 'string'."


def test_a_stream_that_ends_is_breaking() -> None:
    live = document() | {"paths": {"/predictions": {"post": {"x-cog-streaming": True}}}}
    assert changed(live, document()) == [("STREAMING_REMOVED", "breaking")]
    assert changed(document(), live) == []


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"components": {"schemas": {"Input": {}}}},
        {"components": {"schemas": []}},
        document({"x": {"$ref": "#/components/schemas/nothing"}}),
        document({"x": REFERENCE}, x=REFERENCE),
        document({"x": REFERENCE}, x={"type": "array", "items": REFERENCE}),
    ],
    ids=["empty", "no output", "no table", "reference to nothing", "reference to itself", "endless"],
)  # fmt: skip
def test_a_document_that_makes_no_sense_is_refused_in_one_sentence(broken: Node) -> None:
    with pytest.raises(SchemaError):
        compare(broken, broken)
