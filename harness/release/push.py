"""The push: from this folder to a version of a private model on Replicate, and its record in releases.toml.

Every step first looks at what is there, so that the same command finishes what a failure has interrupted.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from replicate.model import Model
from replicate.version import Version

from harness import schema
from harness.errors import DigestDiffers, GateFailed, NotPrivate, SchemaDiffers, SmokeFailed, UsageError, VersionMissing
from harness.release import compare, releases, standins, upload
from harness.release.account import Account
from harness.release.findings import Report
from harness.release.releases import Release
from harness.release.upload import Upload

Smoke = Literal["yes", "no", "ask"]
Live = Mapping[str, Any]
Gate = Callable[[Live | None], Report]
"""Checks the folder against the live version's OpenAPI document, None for a first version."""

_OTHER_VERSION: Final = 0.05  # of the time that the pushed one has to appear
PRICES: Final = "https://replicate.com/pricing"


class Dialogue(Protocol):
    """The person at the command."""

    def say(self, text: str) -> None:
        """Tell what happens."""

    def confirm(self, question: str) -> bool:
        """Ask before anything that costs."""
        ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to push, and how.

    model: "owner/name". root: the folder. hardware: an SKU of Replicate, for a model that is created. public_ok: push
    although anybody can see the model. smoke: whether to run a prediction afterwards, with these `inputs` as typed.
    standins: the weights directory of `root` if it holds stand-ins, for a rehearsal. registry: where the image goes.
    releases: the file of records. appears_s: how long to wait for the version.
    """

    model: str
    root: Path = Path(".")
    hardware: str = "gpu-t4"
    public_ok: bool = False
    smoke: Smoke = "ask"
    inputs: Mapping[str, str] = field(default_factory=dict)
    standins: Path | None = None
    registry: str = upload.REPLICATE
    releases: Path = releases.FILE
    appears_s: float = 600.0

    @property
    def upload(self) -> Upload:
        """What goes to the registry."""
        return Upload(self.root, f"{self.registry}/{self.model}")


def plan(request: Request, account: Account) -> list[str]:
    """Say what `push` would do; changes nothing. Raises as `push` does for what it finds."""
    how = _ready(request, account)
    model = account.model(request.model)
    if model is not None:
        _require_private(request, model)
    here = f"exists and is {model.visibility}" if model else f"is created, private, on {request.hardware}"
    smoke = {"yes": "is run", "no": "is not run", "ask": "is run if you agree"}[request.smoke]
    return [
        f"The gate checks {request.root.resolve()}; nothing else happens unless it passes.",
        f"The model {request.model} {here}.",
        f"{how} builds the image and pushes it to {request.upload.image}.",
        "The version with the pushed digest is waited for; its schema must be the one of this folder.",
        f"A smoke prediction {smoke}. {_costs(request)}",
        f"The version is recorded in {request.releases}.",
    ]


def push(request: Request, account: Account, gate: Gate, dialogue: Dialogue) -> Release:
    """Push the folder as a version; returns its record.

    Raises:
        GateFailed: nothing was changed.
        HarnessError: whatever stopped it; the same command goes on from there.
    """
    _ready(request, account)
    report = gate(_live_schema(request, account))
    if report.exit_code != 0:
        raise GateFailed(f"{report.outcome} The table above says what to do.")
    before = _ensure_model(request, account, dialogue)
    digest = upload.push(request.upload, dialogue.say)
    version = _appeared(request, account, digest, before)
    known = "already there: nothing had changed" if version.id == before else "new"
    dialogue.say(f"Version {version.id} is {known}.")
    _require_schema(request, version)
    _confirm_visibility(request, account, dialogue)
    _smoke(request, account, version, dialogue)
    release = releases.record(_release(request, digest, report), request.releases)
    dialogue.say(f"Recorded in {request.releases}. Callers pin {request.model}:{version.id}")
    return release


def _ready(request: Request, account: Account) -> str:
    """Find out early what can be found out early; returns what would build the image."""
    if request.model.count("/") != 1 or not all(request.model.split("/")):
        raise UsageError(f"The model must be OWNER/NAME, not {request.model!r}.")
    if request.smoke == "yes":
        _require_inputs(request)
    how = upload.builder(request.upload)
    upload.check_login(request.registry)
    account.username()
    return how


def _live_schema(request: Request, account: Account) -> Live | None:
    """Return the document that callers rely on: of the recorded live version, else of the model's newest."""
    recorded = releases.live(request.model, request.releases)
    if recorded is not None:
        return recorded.schema
    model = account.model(request.model)
    return model.latest_version.openapi_schema if model and model.latest_version else None


def _ensure_model(request: Request, account: Account, dialogue: Dialogue) -> str | None:
    """Make sure that there is a private model; returns the id of its newest version."""
    model = account.model(request.model)
    if model is None and account.create_model(request.model, request.hardware):
        dialogue.say(f"Created {request.model}, private, on {request.hardware}. {_costs(request)}")
    model = model or account.model(request.model)
    if model is None:  # a name that is taken, by a model this account cannot see
        raise UsageError(f"{request.model} is taken, or not this account's to create; choose another name.")
    _require_private(request, model)
    return model.latest_version.id if model.latest_version else None


def _require_private(request: Request, model: Model) -> None:
    if model.visibility != "private" and not request.public_ok:
        raise NotPrivate(
            f"{request.model} is {model.visibility}: anybody can see and run it; make it private at "
            f"https://replicate.com/{request.model}/settings, or push to it all the same with --public-ok."
        )


def _appeared(request: Request, account: Account, digest: str, before: str | None) -> Version:
    """Wait for the version with the pushed digest. Raises VersionMissing, DigestDiffers.

    Another new version is a reason to give up only after a while: it may be what an earlier push left in the registry.
    """
    wanted, began = digest.removeprefix("sha256:"), time.monotonic()
    while (found := account.version(request.model, wanted)) is None:
        model = account.model(request.model)
        newest = model.latest_version.id if model and model.latest_version else None
        waited_s = time.monotonic() - began
        if newest not in (before, wanted, None) and waited_s > request.appears_s * _OTHER_VERSION:
            raise DigestDiffers(
                f"{request.model} has the new version {newest}, but {wanted} was pushed: somebody else pushed too, or "
                "the registry changed the image; see who did, then run the same command again."
            )
        if waited_s > request.appears_s:
            raise VersionMissing(
                f"Version {wanted} of {request.model} did not appear within {request.appears_s:.0f} s; the image is "
                "pushed, so run the same command again later."
            )
        time.sleep(account.retries.poll_s)
    return found


def _require_schema(request: Request, version: Version) -> None:
    if not version.openapi_schema:
        raise SchemaDiffers(f"Version {version.id[:12]} has no schema; run the same command again in a minute.")
    differences = compare.schemas(version.openapi_schema, schema.openapi_schema(root=request.root))
    if differences:
        raise SchemaDiffers(
            f"Version {version.id[:12]} does not have this folder's schema: {differences[0].message} Do not use it: "
            "delete .cog/ and push again."
        )


def _confirm_visibility(request: Request, account: Account, dialogue: Dialogue) -> None:
    """Look again after the push: the promise is about now."""
    model = account.model(request.model)
    if model is None:
        raise VersionMissing(f"{request.model} has gone while it was pushed to; run the same command again.")
    _require_private(request, model)
    dialogue.say(f"{request.model} is {model.visibility}.")


def _smoke(request: Request, account: Account, version: Version, dialogue: Dialogue) -> None:
    """Run one prediction, if wanted, and compare with what this folder's model gives."""
    if request.smoke == "ask" and (missing := _missing_inputs(request)):
        dialogue.say(f"No smoke prediction without {', '.join(missing)}; give it like -i img=@photo.jpg.")
        return
    question = f"Run a smoke prediction on Replicate? {_costs(request)}"
    if request.smoke == "no" or (request.smoke == "ask" and not dialogue.confirm(question)):
        dialogue.say("No smoke prediction was run.")
        return
    if request.smoke == "yes":
        dialogue.say(f"A smoke prediction is run. {_costs(request)}")
    environment = standins.environment(request.standins) if request.standins else {}
    ours = asyncio.run(compare.local_output(request.root, request.inputs, environment))
    theirs = compare.remote_output(account, version.id, version.openapi_schema or {}, request.inputs)
    likeness = compare.outputs(ours, theirs)
    if not likeness.alike:
        raise SmokeFailed(f"Version {version.id[:12]} gives something else than this folder's model: {likeness.text}.")
    dialogue.say(f"The smoke prediction gives what this folder's model gives: {likeness.text}.")


def _require_inputs(request: Request) -> None:
    if missing := _missing_inputs(request):
        raise UsageError(f"The smoke prediction needs {', '.join(missing)}; give it like -i img=@photo.jpg.")


def _missing_inputs(request: Request) -> list[str]:
    required = schema.openapi_schema(root=request.root)["components"]["schemas"]["Input"].get("required", [])
    return [name for name in required if name not in request.inputs]


def _costs(request: Request) -> str:
    return (
        f"A private model costs for setup and idle time too, failed predictions included, at the rate of its hardware "
        f"({request.hardware} when created here): {PRICES}"
    )


def _release(request: Request, digest: str, report: Report) -> Release:
    return Release(
        model=request.model,
        version=digest.removeprefix("sha256:"),
        digest=digest,
        pushed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=_git_commit(request.root),
        schema=schema.openapi_schema(root=request.root),
        weights=_weights(request.root),
        gate=report.outcome,
        checks=report.checks,
        figures=dict(report.figures),
    )


def _git_commit(root: Path) -> str:
    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)  # noqa: S603, S607 # our own words; git is where PATH has it
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return "" if commit is None else commit + ("+changes" if git("status", "--porcelain") else "")


def _weights(root: Path) -> dict[str, str]:
    """Return the manifest's hashes of the weights that are here, so in the image; the gate has verified them."""
    manifest = root / "weights" / "manifest.toml"
    if not manifest.exists():
        return {}
    files = tomllib.loads(manifest.read_text(encoding="utf-8")).get("files", {})
    return {name: entry["sha256"] for name, entry in files.items() if (manifest.parent / name).exists()}
