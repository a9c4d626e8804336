"""A report is read in a terminal, by a program, and in a pull request; the exit code is what a script reads."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from harness.release.findings import BREAKING, FAILED, PASSED, Finding, Report, Severity
from harness.release.report import as_markdown, show


def finding(severity: Severity, message: str = "It is wrong.") -> Finding:
    return Finding("SOME_CODE", severity, "predict.py", message, "Mend it.")


@pytest.mark.parametrize(
    ("severities", "exit_code", "words"),
    [
        ((), PASSED, "Ready to push: nothing wrong found, 0 warnings."),
        (("allowed", "warning"), PASSED, "1 warning."),
        (("breaking", "breaking"), BREAKING, "Do not push: 2 breaking changes for callers"),
        (("breaking", "error"), FAILED, "Do not push: 1 error, 1 breaking change."),
    ],
)
def test_the_outcome_is_that_of_the_worst_finding(severities: tuple[Severity, ...], exit_code: int, words: str) -> None:
    report = Report()
    report.add("lint", map(finding, severities))
    assert report.exit_code == exit_code
    assert words in report.outcome
    assert report.checks["lint"] == ("passed" if exit_code == PASSED else "failed")


def test_the_terminal_shows_the_worst_first_and_what_was_skipped() -> None:
    report = Report()
    report.add("schema", [finding("allowed", "Wider [now]."), finding("breaking", "Gone.")])
    report.skip("fuzz", "as asked")
    console = Console(file=io.StringIO(), width=120)
    show(report, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # it is the one made above
    assert text.index("Gone.") < text.index("Wider [now].")
    assert "Mend it." in text
    assert "fuzz       skipped: as asked" in text


def test_json_holds_everything() -> None:
    report = Report(figures={"setup": 1.5})
    report.add("lint", [finding("error")])
    written = json.loads(json.dumps(report.as_json()))
    assert (written["exit_code"], written["checks"], written["figures"]) == (1, {"lint": "failed"}, {"setup": 1.5})
    assert written["findings"] == [
        {"code": "SOME_CODE", "severity": "error", "file": "predict.py", "message": "It is wrong.", "fix": "Mend it."}
    ]


def test_markdown_is_a_table_and_what_a_model_says_stays_text() -> None:
    report = Report()
    report.add("cases", [finding("error", "it said <img src=x> | @everyone\n# [click](http://x)")])
    lines = as_markdown(report).splitlines()
    assert "| cases | failed |" in lines
    row = next(line for line in lines if "SOME\\_CODE" in line or "`SOME_CODE`" in line)
    assert row.count(" | ") == 4
    assert r"\<img src=x\> \| \@everyone \# \[click\](http://x)" in row
