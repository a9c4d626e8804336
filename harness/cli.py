"""`harness ...`: thin, each area brings its own commands."""

from __future__ import annotations

import sys

import typer

from harness.errors import HarnessError
from harness.replicate import cli as replicate

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(replicate.serve)
app.add_typer(replicate.predictions, name="predictions")
app.add_typer(replicate.webhooks, name="webhooks")


def main() -> None:
    """Run the command line; what went wrong on purpose is one line on stderr."""
    try:
        app()
    except HarnessError as error:
        sys.exit(f"{error.code}: {error}")
