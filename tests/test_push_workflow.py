"""The workflow runs the commands that a person types, with the pinned versions, and shows secrets to one step only."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from harness.cli import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / ".github/workflows/push.yaml").read_text()
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
STEPS: list[dict[str, Any]] = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_cog_is_pinned_to_the_version_of_the_sdk() -> None:
    (setup,) = [step for step in STEPS if step.get("uses") == "replicate/setup-cog@v2"]
    config = yaml.safe_load((ROOT / "cog.yaml").read_text())
    assert setup["with"]["cog-version"] == f"v{config['build']['sdk_version']}"


def test_its_commands_and_options_exist() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined] # a click group
    ran = [shlex.split(step["run"]) for step in STEPS if step.get("run", "").startswith(".venv/bin/harness ")]
    assert [words[1] for words in ran] == ["check", "push"]
    for _, name, *words in ran:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


def test_a_pull_request_sees_no_secret_and_writes_nothing() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    gate = WORKFLOW["jobs"]["gate"]
    assert "permissions" not in gate
    assert "secrets." not in str(gate)
    assert WORKFLOW[True].keys() == {"pull_request", "workflow_dispatch"}  # YAML 1.1 reads "on" as true


def test_what_somebody_types_into_the_form_is_no_part_of_a_script() -> None:
    assert not [step for step in STEPS if re.search(r"\$\{\{", step.get("run", ""))]


def test_the_api_token_goes_to_the_push_alone() -> None:
    holders = [step for step in STEPS if "secrets.REPLICATE_API_TOKEN" in str(step)]
    assert [step["run"].split()[1] for step in holders] == ["push"]
