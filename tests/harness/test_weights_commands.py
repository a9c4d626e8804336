"""`harness weights` as a person types it: what is fetched, verified and listed, and what is said when it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner
from unreliable_server import CONTENT, NAME, QUICK, UnreliableServer, listed

from harness.download import MIRROR
from harness.errors import UsageError
from harness.weights import app, select
from restoration.errors import WeightsError
from restoration.weights import Weights, write_manifest

pytest_plugins = ["weights_fixtures"]

OTHER = CONTENT[::-1]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.setattr("harness.weights.Patience", lambda: QUICK)

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
        return result.exit_code, result.output

    return run


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def several(tmp_path: Path) -> Path:
    write_manifest(
        tmp_path,
        [
            listed("default.pth", needs=("default", "v1.3", "v1.4")),
            listed("old.pth", needs=("v1.3",)),
            listed("optional.pth", needs=()),
        ],
    )
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "fetched"),
    [
        ([], {"default.pth"}),
        (["optional.pth"], {"optional.pth"}),
        (["--version", "v1.3"], {"default.pth", "old.pth"}),
        (["--version", "v1.4", "optional.pth"], {"default.pth", "optional.pth"}),
        (["--all"], {"default.pth", "old.pth", "optional.pth"}),
    ],
)
def test_fetch_takes_what_is_asked_for(
    server: UnreliableServer, several: Path, run: Run, arguments: list[str], fetched: set[str]
) -> None:
    code, output = run("fetch", "--directory", several, *arguments)
    assert code == 0, output
    assert {path.name for path in several.glob("*.pth")} == fetched
    assert all(f"{name}: intact" in output for name in fetched)


def test_unknown_wishes_are_answered_with_what_is_known(several: Path) -> None:
    with pytest.raises(UsageError, match=r"'v9'; the manifest knows default, v1\.3, v1\.4"):
        select(Weights(several), version="v9")
    with pytest.raises(WeightsError, match=r"lists default\.pth, old\.pth, optional\.pth"):
        select(Weights(several), ["../old.pth"])


def test_an_offline_machine_gets_one_sentence(monkeypatch: pytest.MonkeyPatch, directory: Path, run: Run) -> None:
    with UnreliableServer() as closed:
        monkeypatch.setenv(MIRROR, closed.url)
    monkeypatch.setenv("NO_PROXY", "*")
    code, output = run("fetch", "--directory", directory)
    assert code == 1
    assert output == (
        f"Not fetched: {NAME}; 127.0.0.1 cannot be reached: check the network connection, "
        f"or set {MIRROR} to the address of a mirror\n"
    )


def test_a_directory_without_a_manifest_gets_one_sentence(tmp_path: Path, run: Run) -> None:
    for command in ("fetch", "verify", "list"):
        code, output = run(command, "--directory", tmp_path)
        assert code == 1
        assert "manifest.toml does not exist" in output
        assert output.count("\n") == 1


def test_verify_fails_for_missing_default_files_and_for_corrupt_ones(several: Path, run: Run) -> None:
    assert run("verify", "--directory", several)[0] == 1
    (several / "default.pth").write_bytes(CONTENT)
    code, output = run("verify", "--directory", several)
    assert code == 0
    assert "default.pth: intact" in output
    (several / "optional.pth").write_bytes(OTHER)
    code, output = run("verify", "--directory", several)
    assert code == 1
    assert "Not usable: optional.pth" in output


def test_list_shows_the_committed_licences(run: Run) -> None:
    code, output = run("list", "--directory", ROOT / "weights")
    assert code == 0
    row = next(line for line in output.splitlines() if "RealESRGAN_x2plus.pth" in line)
    assert "67061725" in row
    assert "BSD-3-Clause" in row
