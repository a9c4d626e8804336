"""Hypothesis strategies from a model's schema: inputs that it promises to take, and some that it must refuse."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st
from PIL import Image

from harness.release.compat import resolve

Json = Any
"""A JSON value."""

PREFERRED: Final[Mapping[str, Json]] = {"background": "lanczos"}
"""Fast choices of inputs by name, taken most of the time: a fuzz that waits for a network finds little."""

_SIDE_PX: Final = 24
_PICTURES: Final = [("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")] + [
    *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    *(("TIFF", mode) for mode in ("RGB", "RGBA", "L", "F")),
    ("BMP", "RGB"),
    ("GIF", "P"),
]
_STRANGE_FILES: Final = [
    "/etc/hostname",
    "file:///etc/hostname",
    "../../etc/hostname",
    "data:",
    "data:image/png;base64,@@",
    "",
]


@dataclass(frozen=True)
class Call:
    """One set of inputs. `valid`: the schema takes them, so the server must not refuse them."""

    inputs: Mapping[str, Json]
    valid: bool


def calls(document: Mapping[str, Any]) -> st.SearchStrategy[Call]:
    """Calls for a model with this OpenAPI document; about one in eight has an input that the schema forbids."""
    whole = resolve(document["components"]["schemas"]["Input"], document)
    properties = {name: resolve(node, document) for name, node in whole.get("properties", {}).items()}
    required = set(whole.get("required", ()))

    @st.composite
    def call(draw: st.DrawFn) -> Call:
        inputs = {
            name: draw(_input(name, node))
            for name, node in properties.items()
            if name in required or name in PREFERRED or draw(st.booleans())
        }
        wrong = {name: _forbidden(node) for name, node in properties.items() if _forbidden(node)}
        if not wrong or draw(st.integers(0, 7)) < 7:
            return Call(inputs, valid=True)
        name = draw(st.sampled_from(sorted(wrong)))
        return Call({**inputs, name: draw(st.sampled_from(wrong[name]))}, valid=False)

    return call()


def _input(name: str, node: Mapping[str, Any]) -> st.SearchStrategy[Json]:
    allowed = values(node)
    fast = PREFERRED.get(name)
    if fast is None or fast not in node.get("enum", ()):
        return allowed
    return st.sampled_from([fast] * 15 + node["enum"])


def values(node: Mapping[str, Any]) -> st.SearchStrategy[Json]:
    """Values that a resolved schema takes; for a file, data URLs of pictures whole and damaged."""
    if "enum" in node:
        return st.sampled_from(node["enum"])
    if "anyOf" in node:
        return st.one_of(*map(values, node["anyOf"]))
    match node.get("type"):
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(node.get("minimum", -(2**31)), node.get("maximum", 2**31))
        case "number":
            return _numbers(node.get("minimum", -1e9), node.get("maximum", 1e9))
        case "array":
            return st.lists(
                values(node.get("items", {})), min_size=node.get("minItems", 0), max_size=node.get("maxItems", 3)
            )
        case "object":
            return st.fixed_dictionaries({key: values(each) for key, each in node.get("properties", {}).items()})
    return files() if node.get("format") == "uri" else _texts(node)


def _numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.one_of(st.sampled_from([low, high]), st.floats(low, high, allow_nan=False, width=32 if low == 0 else 64))


def _texts(node: Mapping[str, Any]) -> st.SearchStrategy[str]:
    if "pattern" in node:
        return st.from_regex(node["pattern"], fullmatch=True)
    most = node.get("maxLength", max(40, node.get("minLength", 0)))
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=node.get("minLength", 0), max_size=most)


def _forbidden(node: Mapping[str, Any]) -> list[Json]:
    """Values that a resolved schema refuses; none known for unions and plain text."""
    bounds = [node[key] + step for key, step in (("minimum", -1), ("maximum", 1)) if key in node]
    if "enum" in node:
        return ["no such choice", 7, None]
    if node.get("type") in ("integer", "number"):
        return [*bounds, "text", [], True]
    return [7, {}, []] if node.get("type") == "string" and not node.get("nullable") else []


@st.composite
def files(draw: st.DrawFn) -> str:
    """Data URLs of small pictures of every common kind, half of them damaged; now and then something else."""
    if draw(st.integers(0, 9)) == 9:
        return draw(st.sampled_from(_STRANGE_FILES))
    content = draw(pictures())
    if draw(st.booleans()):
        content = draw(damaged(content))
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """Small picture files."""
    kind, mode = draw(st.sampled_from(_PICTURES))
    size = (draw(st.integers(1, _SIDE_PX)), draw(st.integers(1, _SIDE_PX)))
    noise = draw(st.randoms(use_true_random=False)).randbytes(_SIDE_PX * _SIDE_PX * 4)
    buffer = io.BytesIO()
    picture = Image.frombytes("RGBA", size, noise[: size[0] * size[1] * 4])
    picture = picture.convert("L").convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
    picture.save(buffer, kind)
    return buffer.getvalue()


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` cut short, with bytes changed, with a piece twice, or with something behind it."""
    at = draw(st.integers(0, max(0, len(content) - 1)))
    match draw(st.sampled_from(["cut", "changed", "twice", "longer"])):
        case "cut":
            return content[:at]
        case "changed":
            return content[:at] + draw(st.binary(min_size=1, max_size=4)) + content[at + 4 :]
        case "twice":
            return content[:at] + content[at // 2 :]
    return content + draw(st.binary(min_size=1, max_size=64))
