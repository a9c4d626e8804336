"""Cases: inputs in a TOML file, and what must come of them, on any model server.

[[case]]
name = "a photo is doubled"
inputs = { img = "@pictures/sky.png", scale = 2 }   # @file, relative to this one
weights = "stand-in"                                # optional: only with these weights ("stand-in" or "real")
expect.size = [74, 46]                              # width, height: exactly
expect.format = "png"
expect.similar_to = "expected/sky.png"              # or "live": what the live version makes of the same inputs
expect.ssim = 0.98                                  # at least, over the whole picture
expect.face = [26, 30, 121, 145]                    # left, top, right, bottom, in pixels of the output
expect.face_ssim = 0.95                             # at least, there
# or, instead:
expect.error = "[NOT_AN_IMAGE]"                     # the prediction fails, and says this
expect.rejected = "scale"                           # the server refuses the inputs, and names this

[[recorded]]                                        # no detector can be a stand-in: the face of a picture
picture = "pictures/astronaut.png"
box = [26, 30, 121, 145]
score = 0.999
landmarks = [[59.6, 71.1], ...]                     # five
"""

from __future__ import annotations

import io
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image

from harness.errors import HarnessError, InputRejected, UsageError
from harness.model_server.client import Outcome, new_prediction_id
from harness.model_server.files import data_url, read_output
from harness.release.findings import Finding
from harness.release.similarity import Pixels, ssim
from restoration.standin import record_detection

CASES: Final = Path("tests/cases")
"""Where a model's folder has them."""

LIVE: Final = "live"
OUTPUTS: Final = Path("build/gate")
"""Where the output of a case that is not similar enough is left to be looked at."""
TIMEOUT_S: Final = 600.0
_ALL_THE_SAME: Final = 0.98


class Runs(Protocol):
    """Whatever runs predictions: a `ModelServer`, or a version on Replicate."""

    async def run(self, prediction_id: str, input: Mapping[str, Any], *, timeout_s: float) -> Outcome:
        """Run one prediction to its end. Raises InputRejected, and HarnessError when there is no answer."""
        ...


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What must come of a case; see the head of this module."""

    size: tuple[int, int] | None = None
    format: str | None = None
    similar_to: str | None = None
    ssim: float = _ALL_THE_SAME
    face: tuple[int, int, int, int] | None = None
    face_ssim: float = _ALL_THE_SAME
    error: str | None = None
    rejected: str | None = None


@dataclass(frozen=True)
class Case:
    """One case of `file`, which its paths are relative to."""

    file: Path
    name: str
    inputs: Mapping[str, Any]
    expect: Expected
    weights: str | None = None

    def request(self) -> dict[str, Any]:
        """The inputs as the model server takes them, files as data URLs. Raises UsageError."""
        return {name: self._value(value) for name, value in self.inputs.items()}

    def _value(self, value: Any) -> Any:  # noqa: ANN401 - any TOML value
        if not (isinstance(value, str) and value.startswith("@")):
            return value
        try:
            return data_url(self.file.parent / value[1:])
        except OSError as error:
            raise UsageError(f"{self.file}: {value[1:]} of {self.name!r} cannot be read ({error.strerror}).") from error


def read_cases(directory: Path) -> list[Case]:
    """Read every `*.toml` in `directory`, in order of their names. Raises UsageError, naming the file."""
    return [_case(path, row) for path, table in _tables(directory) for row in table.get("case", ())]


def record_faces(directory: Path, weights: Path) -> None:
    """Let the stand-in weights find the faces that the cases' files record. Raises UsageError."""
    for path, table in _tables(directory):
        for row in table.get("recorded", ()):
            with Image.open(path.parent / row["picture"]) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            face = {"box": row["box"], "score": row["score"], "landmarks": row["landmarks"]}
            record_detection(weights, pixels, [face])  # type: ignore[list-item]  # its keys are those of RecordedFace


def _tables(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(directory.glob("*.toml")):
        try:
            yield path, tomllib.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{path} is no valid TOML: {error}.") from error


def _case(path: Path, row: Mapping[str, Any]) -> Case:
    try:
        return Case(path, **{**row, "expect": Expected(**row["expect"])})
    except (TypeError, KeyError) as error:
        name = row.get("name", "a case without a name")
        raise UsageError(f"{path}: {name} cannot be read ({error}); the head of cases.py lists the keys.") from error


async def run_cases(
    server: Runs, cases: Sequence[Case], live: Runs | None = None, weights: str | None = None
) -> list[Finding]:
    """Run cases one after the other on `server`.

    live: serves the live version, for the cases that compare with it. weights: "stand-in", "real" or None for unknown;
    a case for other ones is noted as skipped. Raises HarnessError when a server gives no answer at all.
    """
    findings: list[Finding] = []
    for case in cases:
        if case.weights not in (None, weights):
            message = f"{case.name}: not run, because it is for {case.weights} weights."
            findings.append(Finding("CASE_SKIPPED", "allowed", str(case.file), message))
        else:
            findings += await _run(server, case, live)
    return findings


async def _run(server: Runs, case: Case, live: Runs | None) -> list[Finding]:
    try:
        outcome = await server.run(new_prediction_id(), case.request(), timeout_s=TIMEOUT_S)
    except InputRejected as error:
        return list(_rejected(case, str(error)))
    if case.expect.rejected is not None:
        return [_wrong(case, "CASE_NOT_REJECTED", f"{case.expect.rejected} was accepted, and must not be")]
    if outcome.status != "succeeded" or case.expect.error is not None:
        return list(_failed(case, outcome))
    try:
        picture = _picture(outcome)
    except (HarnessError, OSError) as error:
        return [_wrong(case, "CASE_NO_PICTURE", f"the output is no picture ({error})")]
    found = list(_shape(case, picture))
    return found or [*await _likeness(case, picture, live)]


def _rejected(case: Case, said: str) -> Iterator[Finding]:
    wanted = case.expect.rejected
    if wanted is None or wanted not in said:
        yield _wrong(case, "CASE_REJECTED", f"the inputs were refused: {said}")


def _failed(case: Case, outcome: Outcome) -> Iterator[Finding]:
    wanted, said = case.expect.error, outcome.error or ""
    if outcome.status == "succeeded":
        yield _wrong(case, "CASE_NOT_FAILED", f"it succeeded, and must fail with {wanted!r}")
    elif wanted is None:
        yield _wrong(case, "CASE_FAILED", f"the prediction was {outcome.status}: {said}")
    elif wanted not in said:
        yield _wrong(case, "CASE_ERROR", f"it must fail with {wanted!r}, and said {said!r}")


def _picture(outcome: Outcome) -> Image.Image:
    content, _ = read_output(str(outcome.output))
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


def _shape(case: Case, picture: Image.Image) -> Iterator[Finding]:
    size, kind = case.expect.size, (picture.format or "").lower().replace("jpeg", "jpg")
    if size is not None and tuple(size) != picture.size:
        yield _wrong(case, "CASE_SIZE", f"the output has {_by(picture.size)} pixels, and must have {_by(size)}")
    if case.expect.format not in (None, kind):
        yield _wrong(case, "CASE_FORMAT", f"the output is {kind}, and must be {case.expect.format}")


async def _likeness(case: Case, picture: Image.Image, live: Runs | None) -> list[Finding]:
    wanted = case.expect.similar_to
    if wanted is None:
        return []
    if wanted == LIVE and live is None:
        message = f"{case.name}: not compared, because the live version was not run."
        return [Finding("CASE_NOT_COMPARED", "warning", str(case.file), message, "Run it with --run-live; it costs.")]
    if live is not None and wanted == LIVE:
        try:
            other = _picture(await live.run(new_prediction_id(), case.request(), timeout_s=TIMEOUT_S))
        except (HarnessError, OSError) as error:
            message = f"{case.name}: not compared, because the live version gave no picture: {error}"
            return [Finding("CASE_NOT_COMPARED", "warning", str(case.file), message, "Look what callers get now.")]
    elif (path := case.file.parent / wanted).is_file():
        other = Image.open(path)
    else:
        message = f"{case.name}: there is no {wanted} to compare with."
        fix = f"Look at {_leave(case, _rgb(picture))}; if it is right, it becomes {wanted}."
        return [Finding("CASE_PICTURE_MISSING", "error", str(case.file), message, fix)]
    return list(_compared(case, _rgb(picture), _rgb(other), wanted))


def _compared(case: Case, made: Pixels, wanted: Pixels, name: str) -> Iterator[Finding]:
    if made.shape != wanted.shape:
        yield _wrong(
            case, "CASE_SIZE", f"the output has {_by(made.shape[1::-1])} pixels, {name} {_by(wanted.shape[1::-1])}"
        )
        return
    measured = [("CASE_SIMILARITY", "", ssim(made, wanted), case.expect.ssim)]
    if case.expect.face is not None:
        face = ssim(made, wanted, case.expect.face)
        measured.append(("CASE_FACE_SIMILARITY", "in the face ", face, case.expect.face_ssim))
    for code, where, found, least in measured:
        if found < least:
            path = _leave(case, made)
            message = f"{case.name}: {where}it has SSIM {found:.3f} with {name}, at least {least} is wanted."
            yield Finding(
                code, "error", str(case.file), message, f"Look at {path}; if it is right, it replaces {name}."
            )


def _leave(case: Case, pixels: Pixels) -> Path:
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    path = OUTPUTS / f"{re.sub(r'[^a-z0-9]+', '-', case.name.lower())}.png"
    Image.fromarray(pixels).save(path)
    return path


def _rgb(picture: Image.Image) -> Pixels:
    return np.asarray(picture.convert("RGB"))


def _wrong(case: Case, code: str, text: str) -> Finding:
    return Finding(
        code, "error", str(case.file), f"{case.name}: {text}.", "Mend the model, or the case if it is wrong."
    )


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
