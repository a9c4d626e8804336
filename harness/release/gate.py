"""The gate: every check that a version must pass before it is pushed, and one report of them all."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml

from harness import image as images
from harness.errors import HarnessError, UsageError
from harness.model_server.client import ModelServer
from harness.model_server.container import ServerContainer
from harness.model_server.process import ServerProcess
from harness.model_server.runtime import Runtime
from harness.release import budget as budgets
from harness.release import compat, fuzz, releases, standins
from harness.release.cases import CASES, Case, Runs, read_cases, run_cases
from harness.release.findings import Finding, Report
from harness.release.lint import CONFIG, lint, predictor_of
from harness.release.live_cases import Remembered, run_live_cases
from harness.schema import openapi_schema

CHECKS: Final = ("schema", "lint", "cases", "fuzz", "budget")
SETUP_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True)
class Request:
    """What to check, and against what.

    root: the model's folder. live: the live version's OpenAPI document, None for a first version.
    figures: the live version's, None when none were recorded. url, image: a model server, or an image, to check
    instead of the predictor in `root`. live_version: runs the live version, which then has the cases to answer too.
    standins: a directory for stand-in weights to run on; None for the weights in `root`.
    """

    root: Path = Path(".")
    live: dict[str, Any] | None = None
    figures: dict[str, Any] | None = None
    url: str | None = None
    image: str | None = None
    live_version: Runs | None = None
    standins: Path | None = None
    skip: Collection[str] = ()
    cases: Path = CASES
    effort: fuzz.Budget = field(default_factory=fuzz.Budget)

    @property
    def weights(self) -> str | None:
        """What the server runs on: "stand-in", "real", or None for a server that somebody else started."""
        return None if self.url else "stand-in" if self.standins else "real"


Say = Callable[[str], None]


async def check(request: Request, say: Say = lambda _: None) -> Report:
    """Run the gate; `say` is told which check begins. Raises UsageError for a request that makes no sense."""
    unknown = set(request.skip) - set(CHECKS)
    if unknown:
        raise UsageError(f"There is no check {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}.")
    if request.url is not None and request.image is not None:
        raise UsageError("Name a model server or an image to check, not both.")
    report = Report()
    for name in CHECKS:
        if name in request.skip:
            report.skip(name, "as asked")
    for name, look in (("schema", _schema), ("lint", _lint)):
        if name not in report.checks:
            say(name)
            await look(request, report)
    if waiting := [name for name in CHECKS if name not in report.checks]:
        await _on_a_server(request, report, waiting, say)
    report.checks = {name: report.checks[name] for name in CHECKS}
    return report


def against(what: str, model: str | None = None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return the live version's document and figures from a releases.toml, or from a file with a document.

    model: "owner/name", for a releases.toml of several. Raises UsageError for a file that is neither.
    """
    if what.endswith(".toml"):
        release = releases.live(model, Path(what))
        return (release.schema, release.figures or None) if release else (None, None)
    try:
        document = json.loads(Path(what).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{what} is no OpenAPI document ({error}); name releases.toml, a JSON file, or live."
        ) from error
    return document, None


async def _schema(request: Request, report: Report) -> None:
    """Compare what the source, or the image or server named instead, describes with the live version."""
    try:
        document = await _described(request)
        if request.live is None:
            report.skip("schema", "there is no release to compare with")
        else:
            report.add("schema", compat.compare(request.live, document, _file(request)))
    except HarnessError as error:
        report.add("schema", [_failure("SCHEMA_UNREADABLE", error, _file(request))])


async def _described(request: Request) -> dict[str, Any]:
    if request.image is not None:
        return await asyncio.to_thread(images.described, request.image)
    if request.url is None:
        return await asyncio.to_thread(openapi_schema, _predictor(request), request.root)
    async with ModelServer(request.url) as server:
        return await server.schema()


async def _lint(request: Request, report: Report) -> None:
    report.add("lint", await asyncio.to_thread(lint, request.root, weights=request.standins is None))


async def _on_a_server(request: Request, report: Report, names: list[str], say: Say) -> None:
    """Run the checks that need a server; if it fails, that is one finding, and what is left is skipped."""
    say("starting the model")
    try:
        async with _serving(request) as served:
            for name in names:
                say(name)
                await _RUN[name](request, report, served)
    except HarnessError as error:
        left = [name for name in names if name not in report.checks]
        if not left:
            raise  # it could not be stopped
        report.add(left[0], [_failure("SERVER_FAILED", error, _file(request))])
        for name in left[1:]:
            report.skip(name, "the model server failed")


@dataclass(frozen=True)
class _Served:
    server: ModelServer
    runtime: Runtime | None
    setup_s: float


@asynccontextmanager
async def _serving(request: Request) -> AsyncIterator[_Served]:
    """Give a READY server: the one named, or one started for the occasion and stopped in the end."""
    with tempfile.TemporaryDirectory(prefix="gate-") as directory:
        runtime = None if request.url else await _runtime(request, Path(directory) / "server.log")
        began = time.monotonic()
        try:
            if runtime is not None:
                await runtime.start()
            async with ModelServer(request.url or (runtime.url if runtime else "")) as server:
                await server.wait_ready(SETUP_TIMEOUT_S)
                yield _Served(server, runtime, time.monotonic() - began)
        finally:
            if runtime is not None:
                await runtime.stop()


async def _runtime(request: Request, log: Path) -> Runtime:
    if request.standins is not None:
        await asyncio.to_thread(standins.write, request.standins, request.root / request.cases)
    if request.image is not None:
        settings = standins.DETECTOR if request.standins else {}
        return ServerContainer(request.image, log, replica="gate", weights=request.standins, environment=settings)
    environment = standins.environment(request.standins) if request.standins else {}
    return ServerProcess(request.root, log, _predictor(request), environment=environment, stop_timeout_s=2)


async def _cases(request: Request, report: Report, served: _Served) -> None:
    try:
        cases = read_cases(request.root / request.cases)
        live = Remembered(request.live_version) if request.live_version else None
        found = await run_cases(served.server, cases, live, request.weights)
        found += await run_live_cases(live, cases) if live else []
    except UsageError as error:
        report.add("cases", [_failure("CASES_UNREADABLE", error, str(request.cases))])
        return
    if not cases:
        report.skip("cases", f"there are none in {request.cases}")
        return
    report.add("cases", [replace(one, file=_within(request.root, one.file)) for one in found])


async def _fuzz(request: Request, report: Report, served: _Served) -> None:
    report.add("fuzz", await fuzz.fuzz(served.server, request.effort, _file(request)))


async def _budget(request: Request, report: Report, served: _Served) -> None:
    """Measure with the first case that must succeed; what is recorded in the next release comes from here."""
    usual = _usual_case(request)
    if served.runtime is None:
        report.skip("budget", "it cannot be measured on a server that somebody else started")
    elif usual is None:
        report.skip("budget", f"no case in {request.cases} succeeds")
    else:
        where = "a container" if request.image else "a process"
        conditions = f"{request.weights} weights, in {where}, case {usual.name!r}"
        measured = await budgets.measure(served.server, served.runtime, usual.request(), served.setup_s, conditions)
        report.figures = measured.as_dict()
        if request.figures is None:
            report.skip("budget", "no figures of a release to compare with; measured for the next one")
        else:
            report.add("budget", budgets.compare(measured, request.figures))


def _within(root: Path, file: str) -> str:
    return os.path.relpath(file, root)


def _usual_case(request: Request) -> Case | None:
    cases = read_cases(request.root / request.cases)
    usable = (case for case in cases if case.weights in (None, request.weights))
    return next((case for case in usable if not (case.expect.error or case.expect.rejected)), None)


_RUN: Final[dict[str, Callable[[Request, Report, _Served], Awaitable[None]]]] = {
    "cases": _cases,
    "fuzz": _fuzz,
    "budget": _budget,
}


def _predictor(request: Request) -> str:
    """The predictor that cog.yaml names. Raises UsageError where it names none; lint says more."""
    try:
        config = yaml.safe_load((request.root / CONFIG).read_text(encoding="utf-8"))
        named = predictor_of(config)
    except (OSError, yaml.YAMLError, AttributeError):
        named = None
    if named is None:
        raise UsageError("cog.yaml names no predictor.")
    return named


def _file(request: Request) -> str:
    try:
        return _predictor(request).partition(":")[0]
    except UsageError:
        return CONFIG


def _failure(code: str, error: HarnessError, file: str) -> Finding:
    return Finding(
        code, "error", file, f"{str(error).rstrip('.')}.", "Mend what the sentence names, then run the gate again."
    )
