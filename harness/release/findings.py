"""What the gate found: findings, and the report that collects them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["breaking", "error", "warning", "allowed"]
"""breaking: callers of the live version break. error: the version itself is wrong. The other two stop nothing."""

SEVERITIES: tuple[Severity, ...] = ("breaking", "error", "warning", "allowed")

PASSED, FAILED, BREAKING = 0, 1, 3
"""Exit codes of a gate; 2 is what a command line with a mistake in it ends with."""


@dataclass(frozen=True)
class Finding:
    """One thing found: a stable `code`, the file it is in, one sentence, and what to do about it ("" for nothing)."""

    code: str
    severity: Severity
    file: str
    message: str
    fix: str = ""


@dataclass
class Report:
    """What every check said: `checks` by name, "passed", "failed" or "skipped: why"; `figures`: what was measured."""

    checks: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    figures: Mapping[str, Any] = field(default_factory=dict)

    def add(self, check: str, findings: Iterable[Finding]) -> None:
        """Take what a check found; it failed if that holds anything that stops a push."""
        found = list(findings)
        self.findings += found
        self.checks[check] = "failed" if any(map(stops, found)) else "passed"

    def skip(self, check: str, why: str) -> None:
        """Note that a check did not run, so that nobody takes its silence for a pass."""
        self.checks[check] = f"skipped: {why}"

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity, in the order in which they were found."""
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def exit_code(self) -> int:
        """FAILED for any error, else BREAKING for any breaking change, else PASSED."""
        if self.of("error"):
            return FAILED
        return BREAKING if self.of("breaking") else PASSED

    @property
    def outcome(self) -> str:
        """One sentence for the top of the report."""
        wrong, breaking = len(self.of("error")), len(self.of("breaking"))
        if wrong:
            return f"Do not push: {_count(wrong, 'error')}, {_count(breaking, 'breaking change')}."
        if breaking:
            return f"Do not push: {_count(breaking, 'breaking change')} for callers of the live version."
        return f"Ready to push: nothing wrong found, {_count(len(self.of('warning')), 'warning')}."

    def as_json(self) -> dict[str, Any]:
        """The whole report as a JSON object."""
        return {
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "checks": self.checks,
            "findings": [asdict(finding) for finding in self.findings],
            "figures": dict(self.figures),
        }


def stops(finding: Finding) -> bool:
    """Whether a version with this finding may not be pushed."""
    return finding.severity in ("breaking", "error")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
