"""Would the callers of the live version break? Two OpenAPI documents, compared as sets of values.

A schema is a set of JSON values. Input: every value that the live version takes must still be taken, so a set may only
grow. Output: every value that the new version gives must be one that callers know, so a set may only shrink. One walk
over both documents says where a set `narrowed`, `widened`, or became another one (`changed`), and which of these breaks
depends on the side. It follows references, unions, arrays and nested objects, which Replicate's own gate does not; a
keyword that it does not know counts as changed, never as harmless.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import SchemaError
from harness.release.findings import Finding, Severity

Schema = Mapping[str, Any]
Effect = Literal["narrowed", "widened", "changed", "noted"]

LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems")
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
NOTES = ("default", "description", "deprecated", "x-cog-accept")
"""Keywords that a caller may read but that no value depends on."""
_SILENT = ("title", "x-order")
_WALKED = ("type", "enum", "format", "nullable", "pattern", "anyOf", "items", "properties", "required")
_MAX_DEPTH = 16
_BREAKS: Mapping[str, tuple[Effect, ...]] = {"Input": ("narrowed", "changed"), "Output": ("widened", "changed")}
_CODES = {"minLength": "MIN_LENGTH", "maxLength": "MAX_LENGTH", "minItems": "MIN_ITEMS", "maxItems": "MAX_ITEMS"}
_FIXES = {
    "Input": "Take what the live version takes, and add a new input with a default instead.",
    "Output": "Give what the live version gives, or publish a new model.",
}


@dataclass(frozen=True)
class Change:
    """One difference: `where` is like `tags[].name`, "" for the whole; `code` names the kind."""

    where: str
    effect: Effect
    code: str
    text: str


def compare(live: Schema, new: Schema, file: str = "predict.py") -> list[Finding]:
    """Say what differs between two OpenAPI documents as Cog writes them; empty when callers cannot tell them apart.

    Raises SchemaError when a document lacks its Input or Output, or refers to what is not there.
    """
    findings = [_finding(side, change, file) for side in ("Input", "Output") for change in _side(side, live, new)]
    if _streams(live) and not _streams(new):
        text = "The live version streams its output and the new one does not."
        findings.append(Finding("STREAMING_REMOVED", "breaking", file, text, _FIXES["Output"]))
    return findings


def _side(side: str, live: Schema, new: Schema) -> list[Change]:
    walk = _Walk(live, new, of_inputs=side == "Input")
    try:
        return list(walk.changes("", live["components"]["schemas"][side], new["components"]["schemas"][side]))
    except (KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"Not an OpenAPI document as Cog writes it: its {side} is missing or malformed.") from error


def _finding(side: str, change: Change, file: str) -> Finding:
    severity: Severity = "breaking" if change.effect in _BREAKS[side] else "allowed"
    name = f"{side} {change.where}".strip()
    fix = _FIXES[side] if severity == "breaking" else ""
    return Finding(f"{side.upper()}_{change.code}", severity, file, f"{name}: {change.text}.", fix)


def _streams(document: Schema) -> bool:
    return bool(document.get("paths", {}).get("/predictions", {}).get("post", {}).get("x-cog-streaming"))


@dataclass
class _Walk:
    """Through both documents at once. `of_inputs`: what has no default counts as required, whatever else it is."""

    live: Schema
    new: Schema
    of_inputs: bool

    def changes(self, where: str, live: Schema, new: Schema, depth: int = 0) -> Iterator[Change]:
        if depth > _MAX_DEPTH:
            raise SchemaError(f"The schema of {where} is nested more than {_MAX_DEPTH} deep, or in itself.")
        old, now = resolve(live, self.live), resolve(new, self.new)
        yield from _notes(where, old, now)
        if bool(old.get("nullable")) != bool(now.get("nullable")):
            gone = bool(old.get("nullable"))
            text = "null is no longer a value" if gone else "null is now a value"
            yield Change(where, "narrowed" if gone else "widened", "NULLABLE", text)
        if "anyOf" in old or "anyOf" in now:
            yield from self._unions(where, _alternatives(old), _alternatives(now), depth)
        else:
            yield from self._plain(where, old, now, depth)

    def _plain(self, where: str, old: Schema, now: Schema, depth: int) -> Iterator[Change]:
        if old.get("type") != now.get("type"):
            yield Change(where, "changed", "TYPE", f"the type was {_said(old, 'type')} and is {_said(now, 'type')}")
            return
        yield from _choices(where, old, now)
        yield from _bounds(where, old, now)
        yield from _formats(where, old, now)
        if old.get("type") == "array":
            yield from self.changes(f"{where}[]", old.get("items", {}), now.get("items", {}), depth + 1)
        if "properties" in old or "properties" in now:
            yield from self._properties(where, old, now, depth)

    def _properties(self, where: str, old: Schema, now: Schema, depth: int) -> Iterator[Change]:
        before, after = old.get("properties", {}), now.get("properties", {})
        needed_before, needed_after = self._needed(old, depth), self._needed(now, depth)
        for name in sorted({*before, *after}, key=[*after, *before].index):
            path = f"{where}.{name}" if where else name
            if name not in after:
                yield Change(path, "changed", "REMOVED", "is gone")
            elif name not in before:
                yield self._added(path, name in needed_after)
            else:
                yield from _necessity(path, name in needed_before, name in needed_after)
                yield from self.changes(path, before[name], after[name], depth + 1)

    def _added(self, where: str, needed: bool) -> Change:
        if needed and self.of_inputs:
            return Change(where, "narrowed", "NEW_REQUIRED", "is new and has no default, so every caller must send it")
        return Change(where, "noted", "NEW", "is new")

    def _needed(self, node: Schema, depth: int) -> set[str]:
        needed = set(node.get("required", ()))
        if self.of_inputs and depth == 0:
            needed |= {name for name, entry in node.get("properties", {}).items() if "default" not in entry}
        return needed

    def _unions(self, where: str, old: list[Schema], now: list[Schema], depth: int) -> Iterator[Change]:
        """Match alternatives: one that lost its match narrows the union, one without an old match widens it."""
        for schema in old:
            if not any(self._within(schema, other, depth) for other in now):
                yield Change(where, "narrowed", "ALTERNATIVE_REMOVED", f"{_kind(schema)} is no longer a value")
        for schema in now:
            if not any(self._within(other, schema, depth, "widened") for other in old):
                yield Change(where, "widened", "ALTERNATIVE_ADDED", f"{_kind(schema)} is now a value")

    def _within(self, old: Schema, now: Schema, depth: int, never: Effect = "narrowed") -> bool:
        return all(change.effect not in (never, "changed") for change in self.changes("", old, now, depth + 1))


def resolve(node: Schema, document: Schema) -> dict[str, Any]:
    """Replace `$ref` and `allOf` at the top of a node by what they stand for. Raises SchemaError."""
    merged = {key: value for key, value in node.items() if key not in ("$ref", "allOf")}
    parts = [*([{"$ref": node["$ref"]}] if "$ref" in node else []), *node.get("allOf", [])]
    for part in parts:
        target = part if "$ref" not in part else _target(part["$ref"], document)
        merged = {**resolve(target, document), **merged}  # what stands beside a reference wins
    return merged


def _target(reference: str, document: Schema) -> Schema:
    name = reference.removeprefix("#/components/schemas/")
    target: Schema | None = document["components"]["schemas"].get(name)
    if target is None or target.get("$ref") == reference:
        raise SchemaError(f"The schema refers to {reference}, which is not in it.")
    return target


def _alternatives(node: Schema) -> list[Schema]:
    """The members of a union; a plain schema is a union of one."""
    beside = (*NOTES, "nullable")  # belong to the union as a whole
    return list(node["anyOf"]) if "anyOf" in node else [{k: v for k, v in node.items() if k not in beside}]


def _notes(where: str, old: Schema, now: Schema) -> Iterator[Change]:
    for key in NOTES:
        if (key in old) != (key in now) or old.get(key) != now.get(key):
            text = f"the {key} was {_said(old, key)} and is {_said(now, key)}"
            yield Change(where, "noted", key.removeprefix("x-cog-").upper(), text)


def _choices(where: str, old: Schema, now: Schema) -> Iterator[Change]:
    before, after = old.get("enum"), now.get("enum")
    if before is None or after is None:
        if before is not None:
            yield Change(where, "widened", "CHOICES_DROPPED", "any value is one now, not only the choices")
        if after is not None:
            yield Change(where, "narrowed", "CHOICES_ADDED", f"only {_listed(after)} are values now")
        return
    if gone := [choice for choice in before if choice not in after]:
        yield Change(where, "narrowed", "CHOICE_REMOVED", f"the choice {_listed(gone)} is gone")
    if added := [choice for choice in after if choice not in before]:
        yield Change(where, "widened", "CHOICE_ADDED", f"the choice {_listed(added)} is new")


def _bounds(where: str, old: Schema, now: Schema) -> Iterator[Change]:
    for key in (*LOWER, *UPPER):
        before, after = old.get(key), now.get(key)
        if before == after:
            continue
        inwards = after is not None and (before is None or (after > before) == (key in LOWER))
        text = f"the {key} was {_said(old, key)} and is {_said(now, key)}"
        yield Change(where, "narrowed" if inwards else "widened", _CODES.get(key, key.upper()), text)


def _formats(where: str, old: Schema, now: Schema) -> Iterator[Change]:
    """What cannot be ordered: any pattern may be narrower than another, and any other keyword may mean anything."""
    if old.get("pattern") != now.get("pattern"):
        text = f"the pattern was {_said(old, 'pattern')} and is {_said(now, 'pattern')}"
        effect: Effect = "narrowed" if "pattern" not in old else "widened" if "pattern" not in now else "changed"
        yield Change(where, effect, "PATTERN", text)
    known = {*LOWER, *UPPER, *NOTES, *_SILENT, *_WALKED} - {"format"}
    for key in sorted({*old, *now} - known):
        if old.get(key) != now.get(key):
            text = f"the {key} was {_said(old, key)} and is {_said(now, key)}"
            yield Change(where, "changed", "FORMAT" if key == "format" else "KEYWORD", text)


def _necessity(where: str, before: bool, after: bool) -> Iterator[Change]:
    if after and not before:
        yield Change(where, "narrowed", "REQUIRED", "could be left out and no longer can")
    if before and not after:
        yield Change(where, "widened", "OPTIONAL", "may be left out now")


def _kind(schema: Schema) -> str:
    kind = schema.get("$ref", "").rpartition("/")[2] or schema.get("type", "any")
    return f"{kind} with format {schema['format']}" if "format" in schema else str(kind)


def _said(node: Schema, key: str) -> str:
    return repr(node[key]) if key in node else "not set"


def _listed(values: list[Any]) -> str:
    return ", ".join(map(repr, values))
