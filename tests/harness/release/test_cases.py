"""Cases are written by hand: a mistake in the file must be named, and the repository's own must hold on stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken_models import CLEAN
from packaged import RECORDED, REPOSITORY

from harness.errors import UsageError
from harness.model_server.client import ModelServer
from harness.model_server.process import ServerProcess
from harness.release.cases import Case, Expected, read_cases, record_faces, run_cases
from harness.release.findings import Finding

OWN = REPOSITORY / "tests" / "cases"


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The clean model, running; returns its address."""
    process = ServerProcess(CLEAN, tmp_path_factory.mktemp("grey") / "server.log", stop_timeout_s=1)
    asyncio.run(process.start())
    yield process.url
    asyncio.run(process.stop())


def run(url: str, *cases: Case, live: str | None = None, weights: str | None = None) -> list[Finding]:
    async def ask() -> list[Finding]:
        async with ModelServer(url) as server, ModelServer(live or url) as other:
            await server.wait_ready(60)
            return await run_cases(server, cases, other if live else None, weights)

    return asyncio.run(ask())


def case(weights: str | None = None, scale: float = 2, **expected: object) -> Case:
    inputs = {"img": "@square.png", "scale": scale}
    return Case(CLEAN / "tests" / "cases" / "grey.toml", "a case", inputs, Expected(**expected), weights)  # type: ignore[arg-type]  # some are wrong on purpose


def test_the_repository_s_own_cases_hold_on_stand_in_weights(standins: Path, tmp_path: Path) -> None:
    record_faces(OWN, standins)
    environment = RECORDED | {"RESTORATION_WEIGHTS": str(standins)}
    process = ServerProcess(REPOSITORY, tmp_path / "server.log", environment=environment, stop_timeout_s=1)
    asyncio.run(process.start())
    try:
        assert run(process.url, *read_cases(OWN), weights="stand-in") == []
    finally:
        asyncio.run(process.stop())


@pytest.mark.parametrize(
    ("one", "code", "words"),
    [
        (case(size=(31, 32)), "CASE_SIZE", "32 x 32 pixels, and must have 31 x 32"),
        (case(format="jpg"), "CASE_FORMAT", "the output is png, and must be jpg"),
        (case(error="[X]"), "CASE_NOT_FAILED", "must fail with '[X]'"),
        (case(rejected="scale"), "CASE_NOT_REJECTED", "scale was accepted"),
        (case(scale=9), "CASE_REJECTED", "9 is greater than the maximum of 4"),
        (case(scale=9, rejected="tone"), "CASE_REJECTED", "scale"),
        (case(similar_to="none.png"), "CASE_PICTURE_MISSING", "no none.png"),
        (case(scale=1, similar_to="expected.png"), "CASE_SIZE", "16 x 16 pixels, expected.png 32 x 32"),
    ],
)
def test_whatever_differs_is_one_finding(
    grey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: Case, code: str, words: str
) -> None:
    monkeypatch.setattr("harness.release.cases.OUTPUTS", tmp_path)
    (finding,) = run(grey, one)
    assert (finding.code, finding.severity) == (code, "error")
    assert words in finding.message


def test_the_live_version_is_compared_with_where_there_is_one(grey: str) -> None:
    assert run(grey, case(similar_to="live"), live=grey) == []
    (finding,) = run(grey, case(similar_to="live"))
    assert (finding.code, finding.severity) == ("CASE_NOT_COMPARED", "warning")


def test_a_case_for_other_weights_is_noted_as_skipped(grey: str) -> None:
    (finding,) = run(grey, case(weights="stand-in", size=(1, 1)), weights="real")
    assert (finding.code, finding.severity) == ("CASE_SKIPPED", "allowed")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[case]]\nname = 'x'\n", "x cannot be read"),
        ("[[case]]\nname = 'x'\ninputs = {}\nexpect = { sise = [1, 2] }\n", "sise"),
        ("[[case]]\nname = 'x'\nimputs = {}\nexpect = {}\n", "imputs"),
        ("[[case", "no valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(UsageError, match=words) as error:
        read_cases(tmp_path)
    assert "wrong.toml" in str(error.value)


def test_a_picture_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("[[case]]\nname = 'x'\ninputs = { img = '@gone.png' }\nexpect = {}\n")
    (one,) = read_cases(tmp_path)
    with pytest.raises(UsageError, match=r"gone\.png of 'x' cannot be read"):
        one.request()
