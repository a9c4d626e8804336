"""What is wrong with a predictor's signature, read from its source as Cog's own static parser reads it.

Cog's parser never imports the file. A bound that is a named constant simply vanishes from the schema, a Literal type is
unknown to it, and nobody compares a default with its own bounds: nothing says so until callers find out.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.release.findings import Finding

BOUNDS: Final = ("ge", "le", "min_length", "max_length", "regex")
ARGUMENTS: Final = {"default", "description", "choices", "deprecated", "accept", *BOUNDS}
FILES: Final = {"cog.Path", "cog.File"}
_NOT_LITERAL: Final = object()
_PYTHON_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}


def lint_predictor(root: Path, predictor: str | None) -> list[Finding]:
    """Check the predictor "file.py:Class" in `root`; None, which cog.yaml's own rules report, finds nothing."""
    if predictor is None:
        return []
    file, _, name = predictor.partition(":")
    try:
        source = (root / file).read_text(encoding="utf-8")
        tree = ast.parse(source)
    except FileNotFoundError:
        return [Finding("PREDICTOR_FILE_MISSING", "error", file, f"cog.yaml names {file}, which does not exist.")]
    except (SyntaxError, UnicodeDecodeError) as error:
        return [Finding("PREDICTOR_UNREADABLE", "error", file, f"{file} is no valid Python: {error}.")]
    return list(_Source(file, source, tree).findings(name))


@dataclass(frozen=True)
class _Source:
    """One file of Python; `findings` are named after it."""

    file: str
    text: str
    tree: ast.Module

    def findings(self, name: str) -> Iterator[Finding]:
        classes = [node for node in self.tree.body if isinstance(node, ast.ClassDef) and node.name == name]
        if not classes:
            yield self.error("PREDICTOR_CLASS_MISSING", f"{self.file} has no class {name or '(none named)'}.")
            return
        methods = [n for n in classes[-1].body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        found = [method for method in methods if method.name in ("predict", "run")]
        if len(found) != 1:
            message = f"{name} must define one of predict() and run(); it defines {len(found)}."
            yield self.error("PREDICT_METHOD", message, "Keep predict(), which every version of Cog takes.")
            return
        yield from self.inputs(found[0])
        yield from self.output(found[0])

    def error(self, code: str, message: str, fix: str = "") -> Finding:
        return Finding(code, "error", self.file, message, fix)

    def inputs(self, method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Finding]:
        arguments = method.args
        positional = [*arguments.posonlyargs, *arguments.args]
        missing: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
        pairs = [*zip(positional, [*missing, *arguments.defaults], strict=True)][1:]  # without self
        pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        for argument, declared in pairs:
            yield from self.input(argument, declared)

    def input(self, argument: ast.arg, declared: ast.expr | None) -> Iterator[Finding]:
        name, kind = argument.arg, self.name_of(argument.annotation)
        if argument.annotation is None:
            yield self.error("INPUT_UNTYPED", f"The input {name} has no type.", "Annotate it.")
        elif "Literal" in ast.dump(argument.annotation):
            message = f"The input {name} has a Literal type, which Cog's parser does not know."
            yield self.error("INPUT_LITERAL_TYPE", message, "Write str and choices=[...].")
        is_call = isinstance(declared, ast.Call) and self.name_of(declared.func) in ("cog.Input", "Input")
        given = (
            {k.arg: k.value for k in declared.keywords if k.arg} if isinstance(declared, ast.Call) and is_call else {}
        )
        if isinstance(declared, ast.Call) and is_call and declared.args:
            given["default"] = declared.args[0]
        yield from self.description(name, given)
        yield from self.literals(name, given)
        if declared is not None and not is_call:
            given["default"] = declared
        yield from self.default(name, kind, argument.annotation, given)

    def description(self, name: str, given: Mapping[str, ast.expr]) -> Iterator[Finding]:
        node = given.get("description")
        if node is None or not str(self.value(node)).strip():
            if "deprecated" not in given:
                fix = f'Write {name}: ... = Input(description="...").'
                yield self.error("INPUT_UNDESCRIBED", f"The input {name} has no description.", fix)
        elif not isinstance(node, ast.Constant) or self.pieces(node) != 1:
            message = f"The description of {name} is not one string, which Cog's parser reads with its inner quotes."
            yield self.error("INPUT_DESCRIPTION_IN_PIECES", message, "Write it as one string.")

    def literals(self, name: str, given: Mapping[str, ast.expr]) -> Iterator[Finding]:
        for key, node in given.items():
            if key not in ARGUMENTS:
                yield self.error("INPUT_ARGUMENT_UNKNOWN", f"Input() of {name} has no argument {key}.")
            elif key in BOUNDS and _literal(node) is _NOT_LITERAL:
                message = f"{key} of {name} is not a literal, so Cog's parser drops it and nothing is checked."
                yield self.error("INPUT_BOUND_NOT_LITERAL", message, f"Write the value itself after {key}=.")
            elif key == "choices" and not isinstance(_literal(node), list):
                message = f"The choices of {name} are not a literal list."
                yield self.error("INPUT_CHOICES_NOT_LITERAL", message, "Write the list itself after choices=.")

    def default(
        self, name: str, kind: str, annotation: ast.expr | None, given: Mapping[str, ast.expr]
    ) -> Iterator[Finding]:
        if "default" not in given:
            return
        value = self.value(given["default"])
        known = {key: _literal(node) for key, node in given.items() if _literal(node) is not _NOT_LITERAL}
        if value is _NOT_LITERAL:
            message = f"The default of {name} is neither a literal nor the name of one in this file."
            yield self.error("INPUT_DEFAULT_NOT_LITERAL", message, "Write the value itself.")
        elif value is None:
            if annotation is not None and "None" not in ast.unparse(annotation) and "Optional" not in kind:
                message = f"The default of {name} is None, but its type is not optional, so Cog calls it required."
                yield self.error("INPUT_DEFAULT_NOT_OPTIONAL", message, f"Annotate it {kind} | None.")
        elif complaint := _complaint(value, kind, known):
            message = f"The default {value!r} of {name} {complaint}."
            yield self.error("INPUT_DEFAULT_INVALID", message, "Choose a default that callers could send.")

    def output(self, method: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Finding]:
        if self.name_of(method.returns) not in FILES:
            said = ast.unparse(method.returns) if method.returns else "nothing"
            message = f"{method.name}() says that it returns {said}; callers of an image model expect one file."
            yield self.error("OUTPUT_NOT_A_FILE", message, "Return cog.Path.")

    def name_of(self, node: ast.expr | None) -> str:
        """The full name of a type or function, imports followed: CogPath -> cog.Path."""
        if node is None:
            return ""
        text = ast.unparse(node).strip("'\"")
        head, _, rest = text.partition(".")
        for statement in self.tree.body:
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    if (alias.asname or alias.name) == text:
                        return f"{statement.module}.{alias.name}"
            elif isinstance(statement, ast.Import):
                for alias in statement.names:
                    if (alias.asname or alias.name) == head and rest:
                        return f"{alias.name}.{rest}"
        return text

    def value(self, node: ast.expr) -> Any:  # noqa: ANN401 - any literal
        """A literal's value, or that of a module-level name of one; else `_NOT_LITERAL`."""
        if isinstance(node, ast.Name):
            for statement in self.tree.body:
                if isinstance(statement, ast.Assign) and node.id in map(ast.unparse, statement.targets):
                    return _literal(statement.value)
        return _literal(node)

    def pieces(self, node: ast.expr) -> int:
        """How many strings stand side by side in what Python reads as one."""
        segment = ast.get_source_segment(self.text, node) or ""
        tokens = tokenize.generate_tokens(io.StringIO(f"({segment})").readline)
        return sum(token.type == tokenize.STRING for token in tokens)


def _literal(node: ast.expr) -> Any:  # noqa: ANN401 - any literal
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return _NOT_LITERAL


def _complaint(value: Any, kind: str, known: Mapping[str, Any]) -> str | None:  # noqa: ANN401 - any literal
    """Say why an input would refuse its own default; None when it would not. Types it does not know pass."""
    types = _PYTHON_TYPES.get(kind)
    if types and (not isinstance(value, types) or (isinstance(value, bool) and kind != "bool")):
        return f"is no {kind}"
    if isinstance(known.get("choices"), list) and value not in known["choices"]:
        return "is not one of its choices"
    if isinstance(value, int | float):
        return _out_of_bounds(value, known.get("ge"), known.get("le"))
    if isinstance(value, str):
        length = _out_of_bounds(len(value), known.get("min_length"), known.get("max_length"))
        wrong = isinstance(known.get("regex"), str) and re.search(known["regex"], value) is None
        return f"has a length that {length}" if length else "does not match its own regex" if wrong else None
    return None


def _out_of_bounds(value: float, low: float | None, high: float | None) -> str | None:
    if low is not None and value < low:
        return f"is below its own bound {low}"
    if high is not None and value > high:
        return f"is above its own bound {high}"
    return None
