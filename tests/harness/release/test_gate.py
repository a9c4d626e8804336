"""The gate is the last thing between a mistake and callers: each mistake must be found, by name and in its file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from broken_models import (
    BREAKS_CALLERS,
    CLEAN,
    MISBEHAVES,
    WRONG_CONFIG,
    WRONG_FILES,
    WRONG_SOURCE,
    Broken,
    make,
    replaced,
)

from harness.errors import UsageError
from harness.model_server.process import ServerProcess
from harness.release import gate
from harness.release.findings import BREAKING, FAILED, PASSED, Finding, Report
from harness.release.fuzz import Budget
from harness.release.gate import CHECKS, Request, check
from harness.schema import openapi_schema

SERVED = ("cases", "fuzz", "budget")
EFFORT = Budget(examples=30, seconds=4, call_timeout_s=2)
HELPERS = "import os\nimport random\nimport time\n"
SPOIL = """

def spoil(path: FilePath) -> None:
    \"\"\"Paint over the middle.\"\"\"
    with Image.open(path) as picture:
        picture.paste(255, (8, 8, 24, 24))
        picture.save(path)


class Predictor("""


@pytest.fixture(scope="module")
def live() -> dict[str, Any]:
    """What the clean model, which is live, promises its callers."""
    return openapi_schema(root=CLEAN)


@pytest.fixture(autouse=True)
def _outputs_are_left_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.release.cases.OUTPUTS", tmp_path / "outputs")


def run(request: Request) -> Report:
    return asyncio.run(check(request))


def only(report: Report, severity: str) -> list[tuple[str, str]]:
    return [(finding.code, finding.file) for finding in report.findings if finding.severity == severity]


def assert_found(broken: Broken, findings: list[Finding]) -> None:
    matching = [one for one in findings if (one.code, one.file) == (broken.code, broken.file)]
    assert matching, findings
    assert any(broken.words in one.message for one in matching), matching
    assert all(one.message.endswith(".") for one in findings)


def ids(table: list[Broken]) -> list[str]:
    return [broken.name for broken in table]


@pytest.mark.parametrize("broken", BREAKS_CALLERS, ids=ids(BREAKS_CALLERS))
def test_what_breaks_callers_of_the_live_version_is_breaking(
    broken: Broken, live: dict[str, Any], tmp_path: Path
) -> None:
    report = run(Request(make(broken.edit, tmp_path), live, skip=("lint", *SERVED)))
    assert_found(broken, report.of("breaking"))
    assert report.checks["schema"] == "failed"
    assert report.exit_code == BREAKING


@pytest.mark.parametrize(
    "broken", [*WRONG_SOURCE, *WRONG_CONFIG, *WRONG_FILES], ids=ids([*WRONG_SOURCE, *WRONG_CONFIG, *WRONG_FILES])
)
def test_what_cog_or_callers_would_trip_over_is_found_in_the_files(broken: Broken, tmp_path: Path) -> None:
    report = run(Request(make(broken.edit, tmp_path), skip=("schema", *SERVED)))
    assert_found(broken, report.findings)
    if broken.code != "DOCKERIGNORE_MISSING":
        assert (report.checks["lint"], report.exit_code) == ("failed", FAILED)
        assert only(report, "error") == [(broken.code, broken.file)]


@pytest.mark.parametrize("broken", MISBEHAVES, ids=ids(MISBEHAVES))
def test_what_goes_wrong_only_when_it_runs_is_found_by_running_it(broken: Broken, tmp_path: Path) -> None:
    root = make(broken.edit, tmp_path / "model")
    source = (root / "predict.py").read_text().replace("import tempfile", HELPERS + "import tempfile")
    (root / "predict.py").write_text(source.replace("\n\nclass Predictor(", SPOIL))
    wanted = "fuzz" if broken.code.startswith("FUZZ") else "cases"
    skip = {"schema", "lint", "budget", "cases", "fuzz"} - {wanted}
    report = run(Request(root, skip=skip, effort=EFFORT))
    assert_found(broken, report.of("error"))
    assert (report.checks[wanted], report.exit_code) == ("failed", FAILED)


def test_a_clean_change_is_let_through_with_its_differences_told(live: dict[str, Any], tmp_path: Path) -> None:
    def edit(root: Path) -> None:
        replaced("predict.py", "le=4", "le=4.5")(root)
        replaced("predict.py", '"middle"]', '"middle", "black"]')(root)
        replaced("predict.py", "Which grey.", "Which grey it becomes.")(root)
        new = '\n        noise: float = Input(description="Grain.", default=0, ge=0, le=1),\n    ) -> Path:'
        replaced("predict.py", "\n    ) -> Path:", new)(root)

    figures = {
        "setup": 1e6,
        "predict": 1e6,
        "peak_bytes": 10**12,
        "conditions": "real weights, in a process, case 'a picture is doubled'",
    }
    report = run(Request(make(edit, tmp_path), live, figures, effort=EFFORT))
    assert report.checks == dict.fromkeys(CHECKS, "passed")
    assert report.exit_code == PASSED
    assert only(report, "allowed") == [
        ("INPUT_MAXIMUM", "predict.py"),
        ("INPUT_DESCRIPTION", "predict.py"),
        ("INPUT_CHOICE_ADDED", "predict.py"),
        ("INPUT_NEW", "predict.py"),
    ]
    assert set(report.figures) == {"setup", "predict", "peak_bytes", "conditions"}


@pytest.mark.parametrize(
    ("name", "code"), [("setup", "BUDGET_SETUP"), ("predict", "BUDGET_PREDICT"), ("peak_bytes", "BUDGET_PEAK_BYTES")]
)
def test_what_costs_much_more_than_the_last_release_is_found(name: str, code: str, tmp_path: Path) -> None:
    figures = {
        "setup": 1e6,
        "predict": 1e6,
        "peak_bytes": 10**12,
        "conditions": "real weights, in a process, case 'a picture is doubled'",
    }
    tiny = figures | {name: 1e-6}
    report = run(Request(make(lambda _: None, tmp_path), figures=tiny, skip=("schema", "lint", "cases", "fuzz")))
    assert only(report, "error") == [(code, "releases.toml")]


def test_figures_of_other_conditions_are_not_compared(tmp_path: Path) -> None:
    figures = {"setup": 1e-6, "predict": 1e-6, "peak_bytes": 1, "conditions": "real weights, another case"}
    report = run(Request(make(lambda _: None, tmp_path), figures=figures, skip=("schema", "lint", "cases", "fuzz")))
    assert only(report, "warning") == [("BUDGET_NOT_COMPARED", "releases.toml")]
    assert report.exit_code == PASSED


def test_figures_belong_to_the_device_that_a_model_says_it_ran_on(tmp_path: Path) -> None:
    told = replaced("predict.py", "        return ", '        self.record_metric("device", "cuda")\n        return ')
    report = run(Request(make(told, tmp_path), skip=("schema", "lint", "cases", "fuzz")))
    assert report.figures["conditions"] == "real weights, in a process, case 'a picture is doubled', device cuda"


def test_a_predictor_that_cannot_be_described_fails_and_names_its_file(live: dict[str, Any], tmp_path: Path) -> None:
    root = make(replaced("predict.py", "from PIL import Image", "import no_such_package"), tmp_path)
    report = run(Request(root, live, skip=("lint", *SERVED)))
    assert only(report, "error") == [("SCHEMA_UNREADABLE", "predict.py")]
    assert "no_such_package" in report.findings[0].message


def test_a_first_version_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    assert gate.against(str(tmp_path / "releases.toml")) == (None, None)
    report = run(Request(CLEAN, skip=("lint", *SERVED)))
    assert report.checks["schema"] == "skipped: there is no release to compare with"
    assert report.checks["lint"] == "skipped: as asked"


def test_the_live_version_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    path.write_text('{"openapi": "3.0.2"}')
    assert gate.against(str(path)) == ({"openapi": "3.0.2"}, None)
    with pytest.raises(UsageError, match="is no OpenAPI document"):
        gate.against(str(tmp_path / "none.json"))


def test_a_server_and_an_image_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match="not both"):
        run(Request(url="http://127.0.0.1:9", image="an-image"))


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(UsageError, match="no check fuss; there are schema, lint"):
        run(Request(skip=("fuss",)))


def test_a_server_that_somebody_else_started_is_not_measured(tmp_path: Path) -> None:
    process = ServerProcess(CLEAN, tmp_path / "server.log", stop_timeout_s=1)
    asyncio.run(process.start())
    try:
        report = run(Request(CLEAN, url=process.url, skip=("schema", "lint", "cases", "fuzz")))
    finally:
        asyncio.run(process.stop())
    assert report.checks["budget"] == "skipped: it cannot be measured on a server that somebody else started"
