"""A gate's report for a terminal, and as Markdown for a pull request."""

from __future__ import annotations

import re

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.release.findings import SEVERITIES, Report

_COLOURS = {"breaking": "red", "error": "red", "warning": "yellow", "allowed": "green"}


def show(report: Report, console: Console) -> None:
    """Print the report as tables: the findings, worst first, then what each check said, then the outcome."""
    table = Table("severity", "code", "file", "what, and what to do", show_lines=True)
    for severity in SEVERITIES:
        for finding in report.of(severity):
            text = escape(finding.message) + (f"\n[dim]{escape(finding.fix)}[/]" if finding.fix else "")
            table.add_row(f"[{_COLOURS[severity]}]{severity}[/]", finding.code, escape(finding.file), text)
    if report.findings:
        console.print(table)
    for check, said in report.checks.items():
        console.print(f"{check:10} {said}", markup=False)
    console.print(report.outcome, style="green" if report.exit_code == 0 else "red", markup=False)


def as_markdown(report: Report) -> str:
    """Write the report as GitHub-flavoured Markdown; what a model says in it cannot become markup."""
    lines = ["## Gate", "", f"**{report.outcome}**", "", "| check | result |", "| --- | --- |"]
    lines += [f"| {check} | {_cell(said)} |" for check, said in report.checks.items()]
    if report.findings:
        lines += ["", "| severity | code | file | what | fix |", "| --- | --- | --- | --- | --- |"]
    for severity in SEVERITIES:
        for finding in report.of(severity):
            cells = (severity, f"`{finding.code}`", *map(_cell, (finding.file, finding.message, finding.fix)))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    """Escape what Markdown or HTML would take for markup, mentions included."""
    return re.sub(r"([\\`*_{}\[\]<>#|~@])", r"\\\1", " ".join(text.split()))
