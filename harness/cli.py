"""The command `harness`: each command a few lines over a module of plain functions."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from harness import predicting, service
from harness import weights as weights_commands
from harness.errors import HarnessError, PredictionFailed
from harness.follow import follow
from harness.inputs import parse_pairs
from harness.replicate import cli as replicate
from harness.terminal import Progress
from restoration.errors import RestorationError

app = typer.Typer(help="Run, try, check and ship a Cog model.", no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(weights_commands.app, name="weights")
app.add_typer(replicate.predictions, name="predictions")
app.add_typer(replicate.webhooks, name="webhooks")
app.command()(replicate.serve)


@app.command()
def up(
    runtime: Annotated[str, typer.Option(help="auto, process or docker.")] = "auto",
    image: Annotated[str | None, typer.Option(help="The image to run in Docker; default: the one made here.")] = None,
    gpus: Annotated[str | None, typer.Option(help="all, none, or indices like 0,1; default: all there are.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the first replica; 0 takes a free one.")] = 5000,
    replicas: Annotated[int, typer.Option(min=1, help="How many model servers; the next ports are theirs.")] = 1,
) -> None:
    """Start the model and keep it running in the background; returns when it is ready."""
    from harness.plans import make_plan  # imports docker and cog, which the other commands need not wait for

    plan, why = make_plan(runtime, image, gpus, port, replicas)
    typer.echo(f"Runtime: {plan.runtime} ({why})", err=True)
    service.up(plan)
    try:
        with Progress("starting") as progress:
            kept = service.wait_ready(on_news=progress.say)
    except (KeyboardInterrupt, HarnessError):
        service.down()
        raise
    for replica in kept.replicas:
        typer.echo(replica.url)


@app.command()
def status() -> None:
    """Show the model servers that are kept running."""
    kept = service.current()
    if kept is None:
        typer.echo("No model server is up; start one: harness up.")
        raise typer.Exit(1)
    for replica in kept.replicas:
        reason = f": {replica.reason}" if replica.reason else ""
        typer.echo(f"{replica.phase:10} {replica.url}  {replica.name}, {replica.restarts} restarts{reason}")
    raise typer.Exit(0 if kept.ready else 1)


@app.command()
def logs(
    keep_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more comes, until Ctrl-C.")] = False,
) -> None:
    """Print what the model servers and their supervisor wrote."""
    for line in follow(service.logs(), keep_on=keep_on):
        typer.echo(line)


@app.command()
def down() -> None:
    """End the model servers that are kept running; a running prediction may finish first."""
    typer.echo("Stopped." if service.down() else "No model server was up.")


@app.command()
def predict(
    inputs: Annotated[list[str], typer.Option("--input", "-i", help="name=value, or name=@file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: PHOTO-restored beside the photo.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="A model server; default: one that is up, else a new one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print status, output, error and metrics as JSON.")] = False,
) -> None:
    """Run the model once. Ctrl-C cancels the prediction."""
    request = predicting.Request(parse_pairs(inputs), output)
    try:
        answer = asyncio.run(_predict(request, url))
    except KeyboardInterrupt:
        typer.echo("Cancelled.", err=True)
        raise
    if as_json:
        typer.echo(json.dumps(asdict(answer)))
    elif answer.status == "succeeded":
        typer.echo(predicting.readable(answer.output))
    if answer.status != "succeeded":
        raise PredictionFailed(answer.error or f"The prediction was {answer.status}.")


async def _predict(request: predicting.Request, url: str | None) -> predicting.Answer:
    with Progress("starting the model") as progress:
        async with predicting.model_server(url) as server:
            progress.now("predicting")
            began = time.monotonic()
            answer = await predicting.predict(server, request, progress.logs)
            if answer.status == "succeeded":
                progress.say(predicting.summary(answer.metrics, time.monotonic() - began))
            return answer


@app.command("image")
def build_image(
    tag: Annotated[str | None, typer.Option(help="Its name; default: the one that `harness up` runs.")] = None,
    base_image: Annotated[str | None, typer.Option(help="Another base image; implies Docker alone.")] = None,
    weights_inside: Annotated[
        bool, typer.Option("--weights-inside/--weights-mounted", help="Where the weights will be.")
    ] = True,
) -> None:
    """Build the container image: with the cog command where it is installed, else with Docker alone."""
    from harness.image import TAG, Request, build, describe, sizes  # as in `up`

    request = Request(tag=tag or TAG, base_image=base_image, weights="inside" if weights_inside else "mounted")
    builder = build(request)
    typer.echo(f"{request.tag}, built by {builder}: {describe(sizes(request.tag))}")


@app.command()
def image(
    tag: Annotated[str, typer.Option(help="What the image is called.")] = "gfpgan-cog",
    weights: Annotated[Literal["inside", "mounted"], typer.Option(help="In the image, or mounted later.")] = "inside",
    base_image: Annotated[str | None, typer.Option(help="Build from this one, with Docker alone.")] = None,
    build_arg: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the Dockerfile; Docker alone.")] = None,
) -> None:
    """Build the container image, with the cog command where it is installed, else with Docker alone."""
    from harness.image import Request, build, describe, sizes  # as in `up`

    builder = build(Request(Path(), tag, base_image, weights, build_arg or ()))
    typer.echo(f"{tag}, built by {builder}: {describe(sizes(tag))}")


@app.command()
def doctor() -> None:
    """Say what is here of what the model needs, and what to do about the rest."""
    from harness.doctor import examine  # as in `up`

    marks = {"ok": "[green]ok      [/]", "missing": "[red]missing [/]", "optional": "[yellow]optional[/]"}
    console, missing = Console(highlight=False, emoji=False, soft_wrap=True), False
    for finding in examine():
        console.print(f"{marks[finding.verdict]} {finding.subject}: ", end="")
        console.print(finding.text, markup=False)
        missing |= finding.verdict == "missing"
    raise typer.Exit(1 if missing else 0)


def main() -> None:
    """Run the command line; whatever was raised on purpose becomes one line on stderr and exit code 1."""
    try:
        app()
    except (HarnessError, RestorationError) as error:
        typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    except OSError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
