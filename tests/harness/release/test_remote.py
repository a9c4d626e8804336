"""A version on Replicate must run cases as a model server does, its files included; here on the local Replicate.

What it does wrong there is told, and stops nothing; and as it costs money, equal inputs are run once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from broken_models import make
from PIL import Image

from harness.errors import ReplicateFailed
from harness.model_server.client import Outcome
from harness.release.account import Account, Retries
from harness.release.cases import Case, Expected, Runs, run_cases
from harness.release.findings import PASSED
from harness.release.gate import Request, check
from harness.release.live_cases import Remembered, run_live_cases
from harness.release.remote import RemoteVersion

pytest_plugins = ["replicate_fixtures"]

AS_LIVE = """
[[case]]
name = "a picture has the size that it had"
inputs = { img = "@square.png" }
expect = { similar_to = "live", ssim = -1 }
"""


@pytest.fixture(autouse=True)
def _outputs_are_left_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.release.cases.OUTPUTS", tmp_path / "outputs")


@pytest.fixture
def remote(local_replicate: str) -> Iterator[RemoteVersion]:
    """The one version that the local Replicate serves."""
    with closing(Account("r8_local", local_replicate, Retries(poll_s=0.05))) as account:
        model = account.model("tencentarc/gfpgan")
        assert model is not None
        assert model.latest_version is not None
        yield RemoteVersion(account, model.latest_version.id)


@dataclass
class Counted:
    """Runs predictions elsewhere and counts them; may have nothing to run them on."""

    runs: Runs | None
    seen: list[Mapping[str, Any]] = field(default_factory=list)

    async def run(self, prediction_id: str, input: Mapping[str, Any], *, timeout_s: float) -> Outcome:
        self.seen.append(input)
        if self.runs is None:
            raise ReplicateFailed("Replicate does not answer.")
        return await self.runs.run(prediction_id, input, timeout_s=timeout_s)


def doubled(photo: Path, **expected: Any) -> Case:  # noqa: ANN401 - Expected's own
    return Case(photo, "a photo is doubled", {"img": f"@{photo.name}", "scale": 2}, Expected(**expected))


def test_a_case_runs_on_replicate_and_compares_with_it(remote: RemoteVersion, tiny_photo: Path) -> None:
    case = doubled(tiny_photo, size=(16, 12), similar_to="live")
    assert asyncio.run(run_cases(remote, [case], live=remote)) == []


def test_files_are_uploaded_as_replicate_takes_no_large_ones_in_a_request(
    remote: RemoteVersion, local_replicate: str, tmp_path: Path
) -> None:
    photo = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)).save(photo)
    assert photo.stat().st_size > 256_000
    assert asyncio.run(run_cases(remote, [doubled(photo, size=(800, 800))])) == []
    newest = httpx.get(f"{local_replicate}/v1/predictions", headers={"Authorization": "Bearer x"}, trust_env=False)
    assert newest.json()["results"][0]["input"]["img"].startswith("http")


def test_inputs_that_it_refuses_are_refused_as_a_model_server_refuses_them(
    remote: RemoteVersion, tiny_photo: Path
) -> None:
    case = Case(tiny_photo, "too large", {"img": f"@{tiny_photo.name}", "scale": 11}, Expected(rejected="scale"))
    assert asyncio.run(run_cases(remote, [case])) == []


def test_what_it_does_wrong_stops_nothing_and_names_it(remote: RemoteVersion, tiny_photo: Path) -> None:
    (finding,) = asyncio.run(run_live_cases(remote, [doubled(tiny_photo, size=(1, 1))]))
    assert (finding.code, finding.severity) == ("CASE_SIZE", "warning")
    assert finding.message.startswith("On the live version: a photo is doubled: the output has 16 x 12")


def test_without_an_answer_no_further_prediction_is_paid_for(remote: RemoteVersion, tiny_photo: Path) -> None:
    silent = Counted(None)
    (finding,) = asyncio.run(
        run_live_cases(Remembered(silent), [doubled(tiny_photo), doubled(tiny_photo, size=(1, 1))])
    )
    assert (finding.code, finding.severity, len(silent.seen)) == ("CASE_NOT_RUN", "warning", 1)
    (compared,) = asyncio.run(run_cases(remote, [doubled(tiny_photo, similar_to="live")], silent))
    assert (compared.code, compared.severity) == ("CASE_NOT_COMPARED", "warning")


def test_the_gate_runs_each_input_once_on_the_live_version(remote: RemoteVersion, tmp_path: Path) -> None:
    cases = "tests/cases/grey.toml"
    root = make(lambda _: None, tmp_path)
    (root / cases).write_text((root / cases).read_text() + AS_LIVE)
    live = Counted(remote)
    report = asyncio.run(check(Request(root, live_version=live, skip=("schema", "lint", "fuzz", "budget"))))
    assert (report.checks["cases"], report.exit_code) == ("passed", PASSED)
    assert {(one.code, one.file) for one in report.of("warning")} == {
        ("CASE_SIMILARITY", cases),  # it is a model of another kind
        ("CASE_FACE_SIMILARITY", cases),
        ("CASE_ERROR", cases),
        ("CASE_NOT_REJECTED", cases),
    }
    assert all(one.message.startswith("On the live version: ") for one in report.findings)
    assert [inputs.get("scale") for inputs in live.seen] == [None, None, 5]  # four cases, two of them with equal inputs
