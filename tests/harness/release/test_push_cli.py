"""The commands that ship the model, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from push_world import MODEL, TOKEN, World
from typer.testing import CliRunner, Result

from harness.cli import app
from harness.errors import CredentialRefused, UsageError
from harness.release import releases

pytest_plugins = ["push_fixtures"]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def environment(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world that the environment points to."""
    monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
    monkeypatch.setenv("REPLICATE_BASE_URL", world.proxy.url)
    monkeypatch.setenv("COG_REGISTRY_HOST", world.registry.host)
    return world


def test_a_dry_run_reads_the_environment_and_changes_nothing(environment: World) -> None:
    done = run("push", MODEL, "--dry-run", "--root", str(environment.root))
    assert done.exit_code == 0, done.output
    assert f"The model {MODEL} is created, private, on gpu-t4." in done.stdout
    assert environment.model()["status"] == 404


def test_a_model_must_be_named_unless_it_is_a_rehearsal() -> None:
    assert isinstance(run("push").exception, UsageError)
    assert isinstance(run("push", MODEL, "--smoke", "perhaps").exception, UsageError)


def test_stand_in_weights_are_for_rehearsals_alone() -> None:
    refused = run("push", MODEL, "--standins").exception
    assert isinstance(refused, UsageError)
    assert "--rehearse --standins" in str(refused)


def test_without_a_token_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPLICATE_API_TOKEN", raising=False)
    assert isinstance(run("push", MODEL).exception, CredentialRefused)


def test_releases_are_listed_and_the_live_one_marked(environment: World) -> None:
    file = environment.root / "releases.toml"
    assert "No release is recorded" in run("releases", "--path", str(file)).stdout
    release = environment.push()
    shown = run("releases", "--path", str(file)).stdout
    assert release.version[:12] in shown
    assert "*" in shown
    listed = json.loads(run("releases", "--path", str(file), "--json").stdout)
    assert [one["version"] for one in listed] == [release.version]


def test_a_rollback_says_what_to_pin(environment: World) -> None:
    release = environment.push()
    file = environment.root / "releases.toml"
    done = run("rollback", release.version[:10], "--yes", "--path", str(file))
    assert (done.exit_code, done.stdout) == (0, f"{MODEL}:{release.version}\n")
    assert releases.live(MODEL, file) == release


def test_smoke_inputs_come_from_the_first_case_that_should_succeed(tmp_path: Path) -> None:
    from harness.release.push_cli import _inputs

    cases = tmp_path / "tests" / "cases"
    cases.mkdir(parents=True)
    (cases / "a.toml").write_text(
        '[[case]]\nname = "wrong"\ninputs = { img = "@no.png" }\nexpect = { error = "x" }\n'
        '[[case]]\nname = "a face"\ninputs = { img = "@face.png" }\nweights = "stand-in"\nexpect = { size = [2, 2] }\n'
        '[[case]]\nname = "right"\ninputs = { img = "@yes.png", scale = 3, deep = true, tone = "dark" }\n'
        "expect = { size = [2, 2] }\n"
    )
    assert _inputs(None, tmp_path) == {"img": f"@{cases / 'yes.png'}", "scale": "3", "deep": "true", "tone": "dark"}
    assert _inputs(None, tmp_path, "stand-in") == {"img": f"@{cases / 'face.png'}"}
    assert _inputs(["img=@mine.png"], tmp_path) == {"img": "@mine.png"}
