"""Bring README.md's tables up to date: inputs from predict.py, weights from their manifest, settings, benchmarks.

Without options it only checks, and exits with 1 where a table is out of date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from harness.schema import openapi_schema
from restoration.settings import REPOSITORY, Settings
from restoration.weights import Weights

README = REPOSITORY / "README.md"


def inputs() -> str:
    """Return the table of the predictor's inputs."""
    schemas = openapi_schema(root=REPOSITORY)["components"]["schemas"]
    rows = []
    for name, field in schemas["Input"]["properties"].items():
        choices = schemas[name]["enum"] if "allOf" in field else []
        kind = "choice" if choices else {"string": "file"}.get(field["type"], field.get("type"))
        bounds = ", ".join(choices) or (f"{field['minimum']} to {field['maximum']}" if "minimum" in field else "")
        rows.append((f"`{name}`", kind, field.get("default", "required"), bounds, field["description"]))
    return table(("input", "type", "default", "values", "what it does"), rows)


def weights() -> str:
    """Return the table of the weights' licences."""
    rows = [
        (file.name, ", ".join(file.needed_for) or "nothing by default", file.licence, file.licence_note)
        for file in Weights(REPOSITORY / "weights").files.values()
    ]
    return table(("file", "needed for", "licence", "note"), rows)


def settings() -> str:
    """Return the table of the engine's settings."""
    rows = []
    for field in fields(Settings):
        default = field.default.name if isinstance(field.default, Path) else field.default or "unset"
        rows.append((f"`RESTORATION_{field.name.upper()}`", default, field.metadata["meaning"]))
    return table(("variable", "default", "meaning"), rows)


def benchmark() -> str:
    """Return the last benchmark of each device: a line per case, how many times better per stage."""
    parts = []
    for path in sorted((REPOSITORY / "bench").glob("*.json"), key=lambda path: path.stem):
        rows = json.loads(path.read_text())
        stages = list(dict.fromkeys(row["stage"] for row in rows))
        cases = list(dict.fromkeys((row["case"], row["background"]) for row in rows))
        ratios = {(row["case"], row["background"], row["stage"]): row["ratio"] for row in rows}
        lines = [(*case, *(ratios.get((*case, stage), "") for stage in stages)) for case in cases]
        parts += [
            path.with_suffix(".txt").read_text().strip() + ":",
            "",
            table(("photo", "background", *stages), lines),
        ]
        parts += ["", f"![the same as a plot](bench/{path.stem}.png)", ""]
    return "\n".join(parts).rstrip()


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """Lay out a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def updated(text: str) -> str:
    """Return README's text with every table, each between `<!-- NAME -->` and `<!-- /NAME -->`, made anew."""
    for make in (inputs, weights, settings, benchmark):
        name = make.__name__
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->\n")
        if not (mark and end):
            sys.exit(f"README.md must hold a line <!-- {name} --> and after it <!-- /{name} -->.")
        text = before + mark + make() + "\n" + end + after
    return text


def main() -> int:
    """Check, or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write README.md instead of checking it")
    write = parser.parse_args().write
    text = README.read_text()
    fresh = updated(text)
    if write:
        README.write_text(fresh)
    elif fresh != text:
        print("README.md: a table is out of date; run: python scripts/readme.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
