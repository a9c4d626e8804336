"""The command `check`: the gate alone."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.errors import UsageError
from harness.terminal import Progress

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
    live_url: Annotated[str | None, typer.Option(help="A model server of the live version, for its pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Of the fuzz; equal seeds make equal calls.")] = 0,
    examples: Annotated[int, typer.Option(min=1, help="How many calls the fuzz makes up.")] = 60,
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write the report there, as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write it there, for a pull request.")] = None,
) -> None:
    """Check whether this version may be pushed: 0 yes, 1 something is wrong, 3 it breaks callers."""
    from harness.release import fuzz, gate, report  # imports cog, docker and hypothesis, as in `harness up`

    live, figures = (_asked(model), None) if against == LIVE else gate.against(against, model)
    request = gate.Request(
        live=live,
        figures=figures,
        url=url,
        image=image,
        live_url=live_url,
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


def _asked(model: str | None) -> dict[str, Any] | None:
    """Ask Replicate for the newest version's OpenAPI document; None where there is no version yet."""
    from harness.release.account import Account

    if model is None:
        raise UsageError("Name the model to compare with: harness check --against live --model OWNER/NAME.")
    with closing(Account.from_environment()) as account:
        found = account.model(model)
    return found.latest_version.openapi_schema if found and found.latest_version else None
