"""Commands that ship the model: `push`, `releases`, `rollback`, `compare`."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from harness.errors import UsageError
from harness.inputs import parse_pairs
from harness.release import releases as records
from harness.release.releases import Release
from harness.terminal import Progress

if TYPE_CHECKING:
    from harness.release.account import Account
    from harness.release.findings import Report
    from harness.release.push import Request, Smoke

REHEARSED = "rehearsal/model"
"""What a rehearsal pushes to unless a caller says otherwise."""

Folder = Annotated[Path, typer.Option(help="The model's folder.")]
Releases = Annotated[Path, typer.Option(help="The file of records.")]
Inputs = Annotated[
    list[str] | None, typer.Option("--input", "-i", help="name=value or name=@file; default: those of the first case.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Agree to every question.")]


class Terminal:
    """The person at the terminal; `agreed` answers every question."""

    def __init__(self, *, agreed: bool) -> None:
        self._agreed = agreed

    def say(self, text: str) -> None:
        """Print a line."""
        typer.echo(text, err=True)

    def confirm(self, question: str) -> bool:
        """Ask; nobody there to answer means no."""
        if self._agreed:
            return True
        try:
            return typer.confirm(question, default=False, err=True)
        except typer.Abort:
            return False


def push(
    model: Annotated[str | None, typer.Argument(help="OWNER/NAME on Replicate.", show_default=False)] = None,
    hardware: Annotated[str, typer.Option(help="SKU, for a model that is created.")] = "gpu-t4",
    public_ok: Annotated[bool, typer.Option("--public-ok", help="Push although anybody can see the model.")] = False,
    smoke: Annotated[str, typer.Option(help="A paid prediction afterwards: yes, no or ask.")] = "ask",
    inputs: Inputs = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="On this machine alone, without an account.")] = False,
    standins: Annotated[
        bool, typer.Option("--standins", help="Rehearse with stand-in weights, in a copy of the folder: no download.")
    ] = False,
    root: Folder = Path("."),
) -> None:
    """Push this folder to Replicate as a private model, through the gate; the same command goes on after a failure."""
    from harness.release import push as pushing  # imports docker, cog and OpenCV, which the other commands need not

    if smoke not in ("yes", "no", "ask"):
        raise UsageError(f"--smoke is yes, no or ask, not {smoke!r}.")
    if model is None and not rehearse:
        raise UsageError("Name the model to push to: harness push OWNER/NAME; or rehearse: harness push --rehearse.")
    if standins and not rehearse:
        raise UsageError("Stand-in weights are for rehearsals only: harness push --rehearse --standins.")
    chosen: Smoke = smoke  # type: ignore[assignment]  # one of the three, as was just seen
    request = pushing.Request(
        model=model or REHEARSED,
        root=root,
        hardware=hardware,
        public_ok=public_ok,
        smoke=chosen,
        inputs=_inputs(inputs, root, "stand-in" if standins else "real"),
        releases=root / records.FILE,
    )
    with _rehearsed(request, standins=standins and not dry_run) if rehearse else _real(request) as (ready, account):
        if dry_run:
            typer.echo("\n".join(pushing.plan(ready, account)))
            return
        last = records.live(None if rehearse else model, root / records.FILE)
        release = pushing.push(ready, account, lambda live: _gate(ready, live, last), Terminal(agreed=False))
    if rehearse:
        typer.echo(
            "That was a rehearsal: nothing has left this machine, and nothing was recorded. The image "
            f"{ready.upload.image} stays in the engine and the registry, so that the next one is faster.",
            err=True,
        )
    typer.echo(f"{release.model}:{release.version}")


@contextmanager
def _real(request: Request) -> Iterator[tuple[Request, Account]]:
    from harness.release.account import Account
    from harness.release.upload import registry_host

    with closing(Account.from_environment()) as account:
        yield replace(request, registry=registry_host()), account


@contextmanager
def _rehearsed(request: Request, *, standins: bool) -> Iterator[tuple[Request, Account]]:
    from harness.release import rehearsal

    registry = rehearsal.registry_host()
    with tempfile.TemporaryDirectory(prefix="rehearsal-", ignore_cleanup_errors=True) as directory:
        data = Path(directory)
        smoke: Smoke = "no" if request.smoke == "no" else "yes"  # it costs nothing here
        rehearsed = replace(request, registry=registry, smoke=smoke, releases=data / records.FILE)
        if standins:
            rehearsed = _on_standins(rehearsed, data / "model")
        with rehearsal.local_replicate(data / "replicate", registry) as account:
            yield rehearsed, account


def _on_standins(request: Request, copy: Path) -> Request:
    from harness.release import standins

    return replace(request, root=standins.folder(request.root, copy), standins=copy / standins.WEIGHTS)


def _gate(request: Request, live: Mapping[str, Any] | None, last: Release | None) -> Report:
    """Check against `live`, the model's version on Replicate, else against the `last` release; shows the report."""
    from harness.release import gate
    from harness.release.report import show

    document = live or (last.schema if last else None)
    figures = last.figures if last and last.figures else None
    checks = gate.Request(
        root=request.root,
        live=dict(document) if document else None,
        figures=figures,
        standins=request.standins,
    )
    with Progress("checking") as progress:
        report = asyncio.run(gate.check(checks, progress.now))
    show(report, Console(stderr=True))
    return report


def _inputs(pairs: list[str] | None, root: Path, weights: str = "real") -> dict[str, str]:
    """Return the inputs of a smoke prediction: those typed, else those of the first case that should succeed.

    weights: "real" or "stand-in"; cases for the other ones do not count.
    """
    if pairs:
        return parse_pairs(pairs)
    from harness.release.cases import CASES, read_cases

    directory = root / CASES
    for case in read_cases(directory) if directory.is_dir() else ():
        if case.weights in (None, weights) and not (case.expect.error or case.expect.rejected):
            return {name: _typed(value, case.file.parent) for name, value in case.inputs.items()}
    return {}


def _typed(value: Any, directory: Path) -> str:  # noqa: ANN401 - any TOML value
    """Write a case's input as a person would type it."""
    if isinstance(value, str):
        return f"@{directory / value[1:]}" if value.startswith("@") else value
    return json.dumps(value)


def releases(
    path: Releases = records.FILE,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """List what was pushed, newest last; * marks what callers should use."""
    from dataclasses import asdict

    known = records.read(path)
    if as_json:
        typer.echo(json.dumps([asdict(release) for release in known], indent=2))
        return
    if not known:
        typer.echo(f"No release is recorded in {path}; the first push makes one.")
        return
    table = Table("", "version", "model", "pushed", "commit", "schema", "gate", box=None)
    for one in known:
        mark = "*" if one.live else ""
        table.add_row(
            mark, one.version[:12], one.model, one.pushed_at, one.git_commit[:12], one.schema_sha256[:12], one.gate
        )
    Console().print(table)


def rollback(
    version: Annotated[str, typer.Argument(help="Of releases.toml; its first characters are enough.")],
    yes: Yes = False,
    path: Releases = records.FILE,
) -> None:
    """Go back to an earlier version: says what callers should pin, and moves deployments there after asking."""
    from harness.release import rollback as rolling
    from harness.release.account import Account

    with closing(Account.from_environment()) as account:
        chosen = rolling.rollback(version, account, Terminal(agreed=yes), path)
    typer.echo(f"{chosen.model}:{chosen.version}")


def compare(
    local: Annotated[Path, typer.Argument(help="A model's folder, like '.'")],
    remote: Annotated[str, typer.Argument(help="OWNER/NAME for the newest version, or OWNER/NAME:VERSION.")],
    inputs: Inputs = None,
    yes: Yes = False,
) -> None:
    """Compare a folder's model with a version on Replicate: schemas, and after asking what the same input gives.

    Ends with 1 if they differ, as diff does.
    """
    from harness.release import compare as comparing
    from harness.release.account import Account
    from harness.release.push import PRICES
    from harness.schema import openapi_schema

    terminal = Terminal(agreed=yes)
    with closing(Account.from_environment()) as account:
        version = comparing.remote_version(account, remote)
        schema = version.openapi_schema or {}
        findings = comparing.schemas(schema, openapi_schema(root=local))
        for finding in findings:
            typer.echo(f"{finding.severity}: {finding.message}")
        typer.echo(f"Schemas: {len(findings)} differences.")
        given, likeness = _inputs(inputs, local), None
        if given and terminal.confirm(f"Run one prediction on Replicate, which costs money ({PRICES})?"):
            ours = asyncio.run(comparing.local_output(local, given))
            likeness = comparing.outputs(ours, comparing.remote_output(account, version.id, schema, given))
            typer.echo(f"Outputs: {likeness.text}.")
    raise typer.Exit(1 if findings or (likeness is not None and not likeness.alike) else 0)
