"""The committed benchmarks keep their format, which other programs may read, and say where and when they ran."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
KEYS = {"case", "background", "stage", "reference", "ours", "ratio", "unit"}
CASES = {"one-face-512", "five-faces-1080p", "twenty-faces-12mp", "batch-of-8"}
STAGES = {
    *("detect", "align", "restore", "parse", "background", "paste", "encode"),
    *("total", "peak_memory", "cold_start"),
}


@pytest.mark.parametrize("path", sorted(BENCH.glob("*.json")), ids=lambda path: path.name)
def test_every_row_compares_one_stage_with_the_reference(path: Path) -> None:
    rows = json.loads(path.read_text())
    assert rows
    for row in rows:
        assert row.keys() == KEYS
        assert row["case"] in CASES
        assert row["stage"] in STAGES
        assert row["ratio"] == pytest.approx(row["reference"] / row["ours"], abs=0.01, rel=0.01)
    assert len({(row["case"], row["background"], row["stage"]) for row in rows}) == len(rows)
    assert re.search(r", \d{4}-\d\d-\d\d\n$", path.with_suffix(".txt").read_text())
    assert path.with_suffix(".png").stat().st_size > 10_000
