"""What Cog's answers mean: health, outcomes and refusals as types and errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from harness.errors import Crashed, ModelServerError, NotReady, SetupFailed, Unreachable

_WORKER_GONE: Final = ("Worker crashed", "Failed to send on slot socket")


@dataclass(frozen=True)
class Health:
    """What `/health-check` says: `status` is STARTING, READY, BUSY, SETUP_FAILED, UNHEALTHY, DEFUNCT or UNKNOWN."""

    status: str
    setup_logs: str = ""
    error: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def takes_predictions(self) -> bool:
        """Whether setup is done and the worker lives; a busy server counts."""
        return self.status in ("READY", "BUSY")

    @property
    def worker_gone(self) -> bool:
        """Whether the worker is dead, which Cog never repairs."""
        return self.status == "DEFUNCT" or (self.status == "UNHEALTHY" and "channel closed" in self.error)


@dataclass(frozen=True)
class Outcome:
    """How a prediction ended: `status` is "succeeded", "failed" or "canceled"; `output` is Cog's JSON value."""

    id: str
    status: str
    output: Any = None
    error: str | None = None
    logs: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


def health_from(response: httpx.Response) -> Health:
    """Return what an answer of `/health-check` says; its HTTP status says nothing."""
    answer = answer_of(response)
    return Health(
        status=answer.get("status", "UNKNOWN"),
        setup_logs=answer.get("setup", {}).get("logs", ""),
        error=answer.get("user_healthcheck_error", ""),
        versions=answer.get("version", {}),
    )


def usable(health: Health) -> Health:
    """Return `health`, or raise what it means when the server will never take a prediction again."""
    if health.status == "SETUP_FAILED":
        raise SetupFailed(f"The predictor's setup failed: {_setup_reason(health.setup_logs)}")
    if health.worker_gone:
        raise Crashed("The model server's worker is dead; the server must be restarted.")
    return health


def _setup_reason(logs: str) -> str:
    reason = logs.strip().splitlines()[-1] if logs.strip() else "no reason was given"
    return re.sub(
        r"^worker setup failed: worker setup failed \(slot [^)]*\): (Setup failed: setup failed: )?", "", reason
    )


def never_ready(url: str, last: Health | Unreachable, timeout_s: float) -> ModelServerError:
    """Return why waiting for a server ended without success."""
    if isinstance(last, Unreachable):
        return last
    why = f" ({last.error})" if last.error else ""
    return NotReady(f"The model server at {url} is still {last.status}{why} after {timeout_s:g} s.")


def violations(response: httpx.Response) -> str:
    """Return one line from Cog's 400, 415 or 422: `scale: 9 is greater than the maximum of 4; img: Field required`."""
    if not response.headers.get("content-type", "").startswith("application/json"):
        return response.text
    details = sorted((".".join(map(str, item["loc"][2:])), item["msg"]) for item in response.json()["detail"])
    return "; ".join(f"{name}: {message}" for name, message in details)


def _plain(error: str) -> str:
    """Return an error without the prefix that Cog puts before it, twice."""
    return re.sub(r"^(Prediction failed: )+", "", error)


def answer_of(response: httpx.Response) -> dict[str, Any]:
    """Return an answer's JSON object. Raises ModelServerError when it is none, so that no Cog server sent it."""
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ModelServerError(f"What answers at {response.url} is no Cog model server; check the address.")
    return answer


def outcome_from(response: httpx.Response) -> Outcome:
    """Return how the prediction behind an HTTP 200 ended. Raises Crashed when its worker died under it."""
    answer = answer_of(response)
    error = answer.get("error")
    if error and error.startswith(_WORKER_GONE):
        raise Crashed(f"The model server's worker died during prediction {answer['id']}.")
    return Outcome(
        id=answer["id"],
        status=answer["status"],
        output=answer.get("output"),
        error=_plain(error) if error else None,
        logs=answer.get("logs") or "",
        metrics=answer.get("metrics") or {},
    )
