"""`harness check` as it is typed: what is printed, what is written, and the exit code that a script reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from broken_models import make, replaced
from packaged import REPOSITORY

from harness.schema import openapi_schema


def check(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "160", "REPLICATE_API_TOKEN": ""}
    command = [sys.executable, "-m", "harness.cli", "check", *words]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done


def test_a_clean_model_passes_every_check_and_is_reported_three_ways(tmp_path: Path) -> None:
    root = make(lambda _: None, tmp_path)
    (root / "live.json").write_text(json.dumps(openapi_schema(root=root)))
    done = check(root, "--against", "live.json", "--examples", "10", "--json", "gate.json", "--markdown", "gate.md")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ready to push" in done.stdout
    report = json.loads((root / "gate.json").read_text())
    assert {name: report["checks"][name] for name in ("schema", "lint", "cases", "fuzz")} == dict.fromkeys(
        ("schema", "lint", "cases", "fuzz"), "passed"
    )
    assert report["figures"]["peak_bytes"] > 10_000_000
    assert "**Ready to push" in (root / "gate.md").read_text()


def test_a_change_that_breaks_callers_ends_with_3_and_names_the_input(tmp_path: Path) -> None:
    root = make(lambda _: None, tmp_path)
    (root / "live.json").write_text(json.dumps(openapi_schema(root=root)))
    replaced("predict.py", "le=4", "le=3")(root)
    skipped = [word for name in ("cases", "fuzz", "budget") for word in ("--skip", name)]
    done = check(root, "--against", "live.json", *skipped)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "INPUT_MAXIMUM" in done.stdout
    assert "Do not push: 1 breaking change for callers of the live version." in done.stdout
    assert "fuzz       skipped: as asked" in done.stdout


def test_the_live_version_cannot_be_asked_for_without_its_name(tmp_path: Path) -> None:
    done = check(make(lambda _: None, tmp_path), "--against", "live")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("Name the model that is live: --model OWNER/NAME.")
