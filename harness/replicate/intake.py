"""From a creating request to a stored prediction: everything that can be refused is refused here."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Any, Final

from harness.errors import Problem
from harness.replicate import ids, predictions, validation
from harness.replicate.catalogue import Served, Target
from harness.replicate.database import Database
from harness.replicate.inputs import Inputs
from harness.replicate.lifecycle import Lifecycle
from harness.replicate.outputs import Outputs
from harness.replicate.predictions import Prediction
from harness.replicate.settings import MIB, Settings

_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", re.ASCII)
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait(?:=(\d+))?(?:$|[,;\s])", re.ASCII)
_STRICT_WAIT: Final = re.compile(r"wait(=([1-9]|[1-5][0-9]|60))?", re.ASCII)
_SHORTEST_DEADLINE_S: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A creating request, parsed: what was sent, how, and by whom."""

    target: Target
    body: dict[str, Any]
    size: int  # of the body, in bytes
    base_url: str
    user_agent: str
    fingerprint: str
    is_retry: bool
    wait_s: float | None
    deadline_s: float | None
    destination: str | None = None

    @property
    def kind(self) -> str:
        """Whether a prediction or a training is to be made."""
        return "training" if self.destination else "prediction"


class Intake:
    """Accepts predictions."""

    def __init__(
        self,
        database: Database,
        lifecycle: Lifecycle,
        inputs: Inputs,
        outputs: Outputs,
        served: Served,
        settings: Settings,
    ) -> None:
        self._database = database
        self._lifecycle = lifecycle
        self._inputs = inputs
        self._outputs = outputs
        self._served = served
        self._settings = settings
        # The JavaScript client makes file objects of what streams below /v1/files/ give, and of nothing else.
        self._stream_folder = "files/stream-" if served.streams_files else "streams/"

    async def accept(self, submission: Submission) -> tuple[Prediction, list[str]]:
        """Store a prediction, or find the one that the first try of this very request made; with warnings.

        Raises Problem 422 for what is wrong with it, 503 when the queue is full.
        """
        if submission.is_retry:
            since = ids.later(-self._settings.join_s)
            first = await self._database.read(lambda c: predictions.joined(c, submission.fingerprint, since))
            if first is not None:
                return first, ["this retry joined the prediction of its first try"]
        given, warnings = await self._checked(submission)
        prediction_id = ids.new_id()
        stored, kept = await self._inputs.store(given, prediction_id)
        row = self._row(submission, prediction_id, stored)
        return await self._lifecycle.accept(row, kept), [*submission.target.warnings, *warnings]

    async def _checked(self, submission: Submission) -> tuple[dict[str, Any], list[str]]:
        warnings = self._webhook_warnings(submission.body.get("webhook"))
        if submission.destination:
            return submission.body["input"], warnings
        clean = self._served.inputs.clean
        if submission.size > MIB:  # long enough to be noticed by everybody else
            given, unknown = await asyncio.to_thread(clean, submission.body["input"])
        else:
            given, unknown = clean(submission.body["input"])
        return given, warnings + unknown

    def _webhook_warnings(self, webhook: str | None) -> list[str]:
        if webhook is None or webhook.startswith("https://"):
            return []
        warning = "hosted, a webhook must be a public https URL"
        if self._settings.strict:
            validation.refuse([validation.Invalid("format", "webhook", f"--strict: {warning}")])
        return [warning]

    def _row(self, submission: Submission, prediction_id: str, stored: dict[str, Any]) -> Prediction:
        body, created = submission.body, ids.now()
        return Prediction(
            id=prediction_id,
            kind=submission.kind,
            model=submission.target.model,
            version=submission.target.version,
            deployment=submission.target.deployment,
            destination=submission.destination,
            input=stored,
            stream_path=f"/v1/{self._stream_folder}{prediction_id}{ids.new_id()}",
            base_url=submission.base_url,
            created_at=created,
            deadline=None if submission.deadline_s is None else ids.later(submission.deadline_s, created),
            webhook=body.get("webhook"),
            webhook_events_filter=body.get("webhook_events_filter"),
            inline_outputs=self._outputs.inline_for(submission.user_agent, waits=submission.wait_s is not None),
            fingerprint=submission.fingerprint,
        )


def fingerprint(key: bytes, token: str, path: str, body: bytes) -> str:
    """Return what is equal for a request and its retries only; the token cannot be found from it without `key`."""
    mark = hmac.new(key, f"{token}\n{path}\n".encode(), hashlib.sha256)
    mark.update(body)
    return mark.hexdigest()


def wait_seconds(prefer: str | None, client_timeout: str | None, settings: Settings) -> float | None:
    """Return how long to hold a creating request open, None for not at all.

    client_timeout: `x-stainless-read-timeout`; a request held for as long is sent again, so it is answered before.
    """
    if prefer is None:
        return None
    if settings.strict and not _STRICT_WAIT.fullmatch(prefer):
        raise Problem(400, "--strict: Prefer must be wait or wait=n with n from 1 to 60.", title="Bad request")
    match = _WAIT.search(prefer)
    if match is None:
        return None
    wait = min(float(match[1] or settings.max_wait_s), settings.max_wait_s)
    try:
        return max(0.0, min(wait, float(client_timeout) - 1)) if client_timeout else wait
    except ValueError:
        return wait


def deadline_seconds(cancel_after: str | None) -> float | None:
    """Return the seconds that a Cancel-After header means; raises Problem 422 for one that means none."""
    if cancel_after is None:
        return None
    match = _DURATION.fullmatch(cancel_after.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if match is None or total < _SHORTEST_DEADLINE_S:
        raise Problem(422, "Cancel-After must be a duration such as 30, 90s, 5m or 1h30m, of 5 seconds at least.")
    return float(total)
