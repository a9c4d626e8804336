"""Fetch, verify and list checkpoint files: plain functions, and the commands `harness weights ...` over them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import typer
from filelock import AsyncFileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column, Table

from harness.download import MIRROR, Patience, download
from harness.errors import HarnessError, UsageError, WeightsDownloadError
from restoration.errors import RestorationError, WeightsCorrupt, WeightsError, WeightsMissing
from restoration.settings import Settings
from restoration.weights import WeightFile, Weights

DIRECTORY = Settings().weights
_AT_ONCE = 4


def select(
    weights: Weights, names: Iterable[str] = (), version: str | None = None, everything: bool = False
) -> list[str]:
    """Names of the files asked for; without any wish, those that the default inputs need.

    Raises `UsageError` for an unknown version, `WeightsError` for an unknown name.
    """
    if everything:
        return [file.name for file in weights.files.values() if file.url]
    chosen = [weights.file(name).name for name in names]
    if chosen and version is None:
        return chosen
    needed = [file.name for file in weights.files.values() if (version or "default") in file.needed_for]
    if not needed:
        known = sorted({need for file in weights.files.values() for need in file.needed_for})
        raise UsageError(
            f"No weights file is needed for {version or 'default'!r}; the manifest knows {', '.join(known)}"
        )
    return list(dict.fromkeys([*chosen, *needed]))


def fetch(
    directory: Path, names: Iterable[str], *, console: Console | None = None, patience: Patience | None = None
) -> list[Path]:
    """Download those of `names` that are not there intact, several at once; returns their verified paths.

    Safe to interrupt (the next call continues) and to run in several processes. Progress goes to `console`, if given.
    Runs an event loop of its own, so call it from a thread where one is running already.
    Raises `WeightsDownloadError` after all others have ended, `WeightsError` for a bad manifest or an unknown name.
    """
    weights = Weights(directory)
    files = [weights.file(name) for name in dict.fromkeys(names)]
    with _progress(console) as progress:
        return asyncio.run(_fetch_all(weights, files, patience or Patience(), progress))


async def _fetch_all(weights: Weights, files: list[WeightFile], patience: Patience, progress: Progress) -> list[Path]:
    places = asyncio.Semaphore(_AT_ONCE)

    async def fetch_in_turn(file: WeightFile) -> Path:
        async with places:
            return await _fetch_file(client, weights, file, patience, progress)

    async with httpx.AsyncClient(follow_redirects=True, timeout=patience.stall_s) as client:
        results = await asyncio.gather(*map(fetch_in_turn, files), return_exceptions=True)
    return _paths_or_error(files, results)


def _paths_or_error(files: list[WeightFile], results: list[Path | BaseException]) -> list[Path]:
    """The paths, or one error for all failures: its sentence is the first one's."""
    failed = [(file.name, result) for file, result in zip(files, results, strict=True) if not isinstance(result, Path)]
    for _, error in failed:
        if not isinstance(error, HarnessError | RestorationError):
            raise error
    if failed:
        names = ", ".join(name for name, _ in failed)
        raise WeightsDownloadError(f"Not fetched: {names}; {failed[0][1]}") from failed[0][1]
    return [result for result in results if isinstance(result, Path)]


async def _fetch_file(
    client: httpx.AsyncClient, weights: Weights, file: WeightFile, patience: Patience, progress: Progress
) -> Path:
    path = await asyncio.to_thread(_intact, weights, file.name)
    if path is not None:
        return path
    url = _address(file)
    try:
        async with AsyncFileLock(weights.directory / f".{file.name}.lock"):
            # Another process may have fetched it while this one waited.
            path = await asyncio.to_thread(_intact, weights, file.name)
            return path or await _download_intact(client, url, weights, file, patience, progress)
    except OSError as error:
        raise WeightsDownloadError(
            f"{weights.directory} cannot be written ({error.strerror or error}): free space there, make it writable, "
            "or name another directory in RESTORATION_WEIGHTS"
        ) from error


def _intact(weights: Weights, name: str) -> Path | None:
    try:
        return weights.path(name)
    except (WeightsMissing, WeightsCorrupt):
        return None


async def _download_intact(
    client: httpx.AsyncClient,
    url: httpx.URL,
    weights: Weights,
    file: WeightFile,
    patience: Patience,
    progress: Progress,
) -> Path:
    part = weights.directory / f"{file.name}.part"
    task = progress.add_task(file.name, total=file.size_bytes, trouble="")

    def report(done: int, total: int | None, trouble: str) -> None:
        progress.update(task, completed=done, total=total, trouble=trouble)

    for last in (False, True):
        whole = await download(client, url, part, file.size_bytes, patience, report)
        try:
            return await asyncio.to_thread(weights.adopt, file.name, part)
        except WeightsCorrupt as error:
            part.unlink()
            if whole or last:  # pieces may be of different contents, so those are fetched once more, from the start
                raise WeightsDownloadError(_wrong_content(file, url, error)) from error
    raise AssertionError("unreachable: the last round returns or raises")


def _wrong_content(file: WeightFile, url: httpx.URL, error: WeightsCorrupt) -> str:
    return (
        f"{url.host} sent something else, which was discarded: {error.args[0]}; if it happens again, "
        f"{file.name} is changed there or on the way: use another network, or set {MIRROR} to the address of a mirror"
    )


def _address(file: WeightFile) -> httpx.URL:
    """Where `file` comes from: its own address, or the mirror's with the file's name after it."""
    if file.url is None:
        raise WeightsDownloadError(f"{file.name} has no address to download from: {file.remedy}")
    mirror = os.environ.get(MIRROR)
    try:
        url = httpx.URL(f"{mirror.rstrip('/')}/{file.name}" if mirror else file.url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise UsageError(
            f"{MIRROR} must be an address like https://mirror.example/weights, without a user name: "
            "the names of files are put after it"
        )
    return url


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[trouble]}", markup=False),
        console=console,
        disable=console is None or not console.is_terminal,  # a bar in a log file is noise
        transient=True,
    )


# --- commands ---------------------------------------------------------------------------------------------------------

app = typer.Typer(help="The checkpoint files: fetch, verify, list.", no_args_is_help=True)
Directory = Annotated[Path, typer.Option("--directory", envvar="RESTORATION_WEIGHTS", help="The weights directory.")]


@app.command("fetch")
def fetch_command(
    names: Annotated[list[str] | None, typer.Argument(help="Files; default: what the default inputs need.")] = None,
    version: Annotated[str | None, typer.Option(help="What this version needs, for example v1.3.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every file of the manifest.")] = False,
    directory: Directory = DIRECTORY,
) -> None:
    """Download files, resuming what was begun; each is verified before it takes its name."""
    console = Console(stderr=True)
    with _one_sentence():
        chosen = select(Weights(directory), names or (), version, everything)
        for path in fetch(directory, chosen, console=console):
            console.print(f"{path.name}: intact", highlight=False)


@app.command("verify")
def verify_command(directory: Directory = DIRECTORY) -> None:
    """Hash every file; fails where one is corrupt, or one that the default inputs need is missing."""
    with _one_sentence():
        weights = Weights(directory)
        bad = [name for name in weights.files if not _verified(weights, name)]
        if bad:
            raise WeightsError(f"Not usable: {', '.join(bad)}")


def _verified(weights: Weights, name: str) -> bool:
    """Print what `name` is; returns whether that is all right."""
    try:
        weights.verify(name)
    except WeightsError as error:
        typer.echo(f"{name}: {error}")
        return isinstance(error, WeightsMissing) and "default" not in weights.file(name).needed_for
    typer.echo(f"{name}: intact")
    return True


@app.command("list")
def list_command(directory: Directory = DIRECTORY) -> None:
    """Show the manifest: sizes, licences, what needs each file."""
    table = Table(Column("file", no_wrap=True), "bytes", "licence", "needed for", "there")
    with _one_sentence():
        for file in Weights(directory).files.values():
            size = str(file.size_bytes or "not stated")
            there = "yes" if (directory / file.name).exists() else "no"
            table.add_row(file.name, size, file.licence, ", ".join(file.needed_for), there)
    Console().print(table)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """End the program with one sentence on stderr instead of a traceback, for everything that was raised on purpose."""
    try:
        yield
    except (HarnessError, RestorationError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted: the same command continues where it was", err=True)
        raise typer.Exit(130) from None
