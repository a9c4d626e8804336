"""Requests and inputs against what is expected of them, refused with the bodies that Replicate is known to answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator, ValidationError

from harness.errors import Problem
from harness.replicate.inputs import decode_data_url

EVENTS: Final = ("start", "output", "logs", "completed")
_KNOWN: Final = frozenset({"input", "stream", "webhook", "webhook_events_filter"})


@dataclass(frozen=True, slots=True)
class Invalid:
    """One entry of `invalid_fields`."""

    type: str
    field: str
    description: str


def refuse(problems: Iterable[Invalid], title: str = "Input validation failed") -> None:
    """Raise Problem 422 naming every invalid field, unless there is none."""
    listed = [{"type": one.type, "field": one.field, "description": one.description} for one in problems]
    if listed:
        detail = "".join(f"- {entry['field'] or 'body'}: {entry['description']}\n" for entry in listed)
        raise Problem(422, detail, title=title, invalid_fields=listed)


def check_request(body: Mapping[str, Any], *also: str) -> None:
    """Check the members of a creating request but not its input's; `also` names further members, all required."""
    refuse(
        [
            *(
                Invalid("additional_property_not_allowed", "", f"Additional property {name} is not allowed")
                for name in body
                if name not in _KNOWN and name not in also
            ),
            *(Invalid("required", "", f"{name} is required") for name in ("input", *also) if body.get(name) is None),
            *(_wrong_type(name, "string") for name in also if not isinstance(body.get(name, ""), str | None)),
            *([] if isinstance(body.get("input", {}), dict | None) else [_wrong_type("input", "object")]),
            *_webhook(body),
        ],
        "Request validation failed",
    )


def _wrong_type(name: str, expected: str) -> Invalid:
    return Invalid("invalid_type", name, f"Invalid type. Expected: {expected}")


def _webhook(body: Mapping[str, Any]) -> Iterable[Invalid]:
    target, events = body.get("webhook"), body.get("webhook_events_filter")
    if target is not None and not (isinstance(target, str) and is_http(target)):
        yield Invalid("format", "webhook", "Does not match format 'uri': expected an http or https URL")
    if events is not None and not (isinstance(events, list) and all(event in EVENTS for event in events)):
        yield Invalid("enum", "webhook_events_filter", f"must be a list of: {', '.join(EVENTS)}")
    if not isinstance(body.get("stream"), bool | None):
        yield _wrong_type("stream", "boolean")


def is_http(url: str) -> bool:
    """Whether this is an http or https URL with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class InputSchema:
    """The inputs of one version, from the document that Cog generates."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._properties: dict[str, Any] = document["components"]["schemas"]["Input"].get("properties", {})
        self._required = frozenset(document["components"]["schemas"]["Input"].get("required", ()))
        self._validator = Draft202012Validator({**document, "$ref": "#/components/schemas/Input"})
        self.uris = frozenset(name for name, schema in self._properties.items() if _takes_files(schema))

    def clean(self, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return the input to store and warnings about what was left out; raises Problem 422.

        An unknown input is dropped, as Cog does; so is null for an optional one, which Cog would refuse.
        """
        _refuse_client_object(given)
        known = {name: value for name, value in given.items() if name in self._properties}
        used = {name: value for name, value in known.items() if value is not None or name in self._required}
        errors = sorted(self._validator.iter_errors(used), key=lambda error: [str(step) for step in error.path])
        refuse([*map(_invalid, errors), *self._bad_files(used)])
        return used, [f"unknown input {name!r} was ignored" for name in given if name not in known]

    def _bad_files(self, used: Mapping[str, Any]) -> Iterable[Invalid]:
        for name in sorted(self.uris & used.keys()):
            for value in used[name] if isinstance(used[name], list) else [used[name]]:
                reason = _not_a_file(value)
                if reason:
                    yield Invalid("format", f"input.{name}", f"Does not match format 'uri': {reason}")


def _takes_files(schema: Mapping[str, Any]) -> bool:
    return schema.get("format") == "uri" or schema.get("items", {}).get("format") == "uri"


def _not_a_file(value: object) -> str | None:
    if not isinstance(value, str):
        return None  # the schema has said so
    if value.startswith("data:"):
        try:
            data, _ = decode_data_url(value)
        except ValueError as error:
            return str(error)
        return None if data else "the data URL is empty"
    return None if is_http(value) else "expected an http, https or data URL"


def _refuse_client_object(given: Mapping[str, Any]) -> None:
    """Catch replicate.js 1.4.0, which under fileEncodingStrategy "data-uri" posts itself, API token included."""
    if "auth" in given and "userAgent" in given:
        raise Problem(
            422,
            "The input is the JavaScript client itself, with its API token, instead of the model's input.",
            title="Input validation failed",
            hint='A bug of replicate.js 1.4.0 with fileEncodingStrategy: "data-uri"; use the default strategy. '
            "Nothing of this request was stored.",
        )


_RULES: Final = {  # of JSON Schema: type in invalid_fields, description
    "type": ("invalid_type", "Invalid type. Expected: {0}"),
    "enum": ("enum", "must be one of the following: {0}"),
    "minimum": ("number_gte", "Must be greater than or equal to {0}"),
    "maximum": ("number_lte", "Must be less than or equal to {0}"),
    "minLength": ("string_gte", "String length must be greater than or equal to {0}"),
    "maxLength": ("string_lte", "String length must be less than or equal to {0}"),
    "pattern": ("pattern", "Does not match pattern '{0}'"),
}


def _invalid(error: ValidationError) -> Invalid:
    """Translate a finding; values are never repeated, they may be secret or huge."""
    field = ".".join(["input", *(str(step) for step in error.path)])
    rule, limit = str(error.validator), cast(Any, error.validator_value)
    if rule == "required":
        missing = error.message.split("'")[1]  # one finding for each missing name, which only the message tells
        return Invalid("required", field, f"{missing} is required")
    if rule == "enum":
        limit = ", ".join(f'"{choice}"' for choice in limit)
    kind, text = _RULES.get(rule, (rule, "Does not satisfy " + rule))
    return Invalid(kind, field, text.format(limit))
