"""The command `check`: the gate alone."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness.errors import UsageError
from harness.terminal import Progress

if TYPE_CHECKING:
    from replicate.version import Version

    from harness.release.remote import RemoteVersion

LIVE = "live"
"""Says that Replicate knows the live version."""


def check(
    against: Annotated[
        str, typer.Option(help="The live version: releases.toml, an OpenAPI document, or live (asks Replicate).")
    ] = "releases.toml",
    model: Annotated[str | None, typer.Option(help="OWNER/NAME; default: the one released last.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave out: schema, lint, cases, fuzz, budget.")] = None,
    standins: Annotated[
        bool, typer.Option("--standins", help="Run on stand-in weights, in build/standins: no download.")
    ] = False,
    url: Annotated[str | None, typer.Option(help="Check the model server there instead of one started here.")] = None,
    image: Annotated[str | None, typer.Option(help="Check this image, in a container.")] = None,
    run_live: Annotated[
        bool, typer.Option("--run-live", help="Run the cases on the live version too, each once: costs money.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the fuzz; equal seeds make equal calls.")] = 0,
    examples: Annotated[int, typer.Option(min=1, help="How many calls the fuzz makes up.")] = 60,
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write the report there, as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write it there, for a pull request.")] = None,
) -> None:
    """Check whether this version may be pushed: 0 yes, 1 something is wrong, 3 it breaks callers."""
    from harness.release import fuzz, gate, report  # imports cog, docker and hypothesis, as in `harness up`
    from harness.release.push import PRICES

    newest = _newest(model) if against == LIVE or run_live else None
    if run_live and newest is None:
        raise UsageError(f"{model} has no version that cases could run on; leave out --run-live.")
    live, figures = (
        gate.against(against, model) if against != LIVE else (newest.openapi_schema if newest else None, None)
    )
    if run_live:
        typer.echo(f"The cases run on {model} too; predictions, and a private model's setup, cost: {PRICES}", err=True)
    request = gate.Request(
        live=live,
        figures=figures,
        url=url,
        image=image,
        live_version=_remote(newest) if newest and run_live else None,
        standins=Path("build/standins") if standins else None,
        skip=skip or (),
        effort=fuzz.Budget(examples=examples, seed=seed),
    )
    with Progress("checking") as progress:
        found = asyncio.run(gate.check(request, progress.now))
    report.show(found, Console())
    if as_json is not None:
        as_json.write_text(json.dumps(found.as_json(), indent=2) + "\n", encoding="utf-8")
    if markdown is not None:
        markdown.write_text(report.as_markdown(found), encoding="utf-8")
    raise typer.Exit(found.exit_code)


def _newest(model: str | None) -> Version | None:
    """Ask Replicate for a model's newest version; None where there is none yet."""
    from harness.release.account import Account

    if model is None:
        raise UsageError("Name the model that is live: --model OWNER/NAME.")
    with closing(Account.from_environment()) as account:
        found = account.model(model)
    return found.latest_version if found else None


def _remote(version: Version) -> RemoteVersion:
    from harness.release.account import Account
    from harness.release.remote import RemoteVersion

    return RemoteVersion(Account.from_environment(), version.id)
