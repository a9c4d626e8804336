"""Webhooks as Replicate sends them: which events, signed how, tried when, and what came of each attempt.

The outbox that holds them belongs to the store; a delivery in it has been promised, and is attempted until it is
settled, also after a restart.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

import httpx
import standardwebhooks

from harness.errors import AddressRefused
from harness.replicate.addresses import AddressRules, CheckedTransport

EVENTS: Final = ("start", "output", "logs", "completed")
DEFAULT_EVENTS: Final = ("output", "completed")
THROTTLE_S: Final = 0.5  # `output` and `logs` of one prediction come no more often
RETRY_DELAYS_S: Final = (1, 2, 4, 8, 16, 28)  # the last attempt is about a minute after completion
TIMEOUT_S: Final = 30.0
MAX_RETRY_AFTER_S: Final = 600
LOGGED_BYTES: Final = 4096  # how much of a receiver's answer the delivery log keeps
CONCURRENT: Final = 16  # one slow receiver must not hold up the others

UNDECODED_KEY: Final = (
    "The receiver refused the signature: did you key the HMAC with the undecoded secret? The key is the base64-decoded "
    "part after 'whsec_'; the Flask sample in Replicate's documentation uses its text instead."
)
BLOCKED_HOST: Final = "Rails blocked the host: use localhost in the webhook's URL, or add its host to config.hosts."


@dataclass(frozen=True)
class Delivery:
    """One webhook that was promised. `id` is its webhook-id, the same on every attempt; `attempts` were made before."""

    id: str
    url: str
    event: str
    body: bytes
    attempts: int = 0


@dataclass(frozen=True)
class Attempt:
    """What was sent and what came back: `status` is None when nothing did, and `error` then says why."""

    started_at: datetime
    duration_s: float
    request_headers: Mapping[str, str]
    status: int | None = None
    response_headers: Mapping[str, str] = field(default_factory=dict)
    response_body: str = ""
    error: str | None = None
    diagnosis: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the receiver took it: only 2xx does, a redirect is a failure."""
        return self.status is not None and 200 <= self.status < 300


class Outbox(Protocol):
    """The deliveries that are not settled, as the store keeps them."""

    async def due(self, now: datetime, limit: int) -> list[Delivery]:
        """Up to `limit` deliveries whose next attempt is at or before `now`, the oldest first."""
        ...

    async def record(self, delivery: Delivery, attempt: Attempt, next_attempt_at: datetime | None) -> None:
        """Log `attempt`; the delivery is settled when there is no next one."""
        ...

    def wake(self) -> None:
        """Let `changed` return at once."""
        ...

    async def changed(self, timeout_s: float) -> None:
        """Return when a delivery was added or `wake` was called, or after `timeout_s`."""
        ...


def signing_secret(path: Path) -> str:
    """The secret kept at `path`, created there on first use for its owner's eyes only: 'whsec_' and 24 random bytes."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    # Clients split the secret on "_", which standard base64 does not contain; the URL-safe alphabet does.
    key = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return key


def new_webhook_id() -> str:
    """An id for a new delivery."""
    return "msg_" + secrets.token_urlsafe(20)


def signed_headers(secret: str, webhook_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The headers that prove `body` to whoever knows `secret` (Standard Webhooks 1.0.0)."""
    return {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": standardwebhooks.Webhook(secret).sign(webhook_id, at.astimezone(UTC), body.decode()),
    }


class EventFilter:
    """Decides which events of which prediction become webhooks."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], float] = {}

    def wants(self, prediction_id: str, event: str, events: Collection[str] | None) -> bool:
        """Whether `event` is in the prediction's filter (None: the default) and not too soon after the last one."""
        if event not in (DEFAULT_EVENTS if events is None else events):
            return False
        if event == "completed":
            for name in EVENTS:
                self._last.pop((prediction_id, name), None)
        if event in ("start", "completed"):
            return True
        now = time.monotonic()
        if now - self._last.get((prediction_id, event), -THROTTLE_S) < THROTTLE_S:
            return False
        self._last[prediction_id, event] = now
        return True


def next_attempt(delivery: Delivery, attempt: Attempt) -> datetime | None:
    """When to try again after `attempt`; only the terminal event is, until it is accepted or the receiver is gone."""
    settled = attempt.accepted or attempt.status == 410
    if settled or delivery.event != "completed" or delivery.attempts >= len(RETRY_DELAYS_S):
        return None
    asked = attempt.response_headers.get("retry-after", "")
    delay_s = max(RETRY_DELAYS_S[delivery.attempts], int(asked) if asked.isdecimal() else 0)
    return attempt.started_at + timedelta(seconds=attempt.duration_s + min(delay_s, MAX_RETRY_AFTER_S))


def diagnose(status: int, body: str) -> str | None:
    """The known mistake that a receiver's answer looks like."""
    if status == 403 and "blocked host" in body.lower():
        return BLOCKED_HOST
    return UNDECODED_KEY if status in (401, 403) else None


class WebhookSender:
    """Makes single attempts. The receiver's address is checked as an input URL's is; no redirect is followed."""

    def __init__(self, secret: str, rules: AddressRules, *, timeout_s: float = TIMEOUT_S) -> None:
        self._secret = secret
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(transport=CheckedTransport(rules), timeout=timeout_s, trust_env=False)

    async def aclose(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def attempt(self, delivery: Delivery) -> Attempt:
        """POST `delivery` once; never raises for what the receiver does."""
        started_at, started = datetime.now(UTC), time.monotonic()
        headers = signed_headers(self._secret, delivery.id, started_at, delivery.body)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", delivery.url, content=delivery.body, headers=headers) as response,
            ):
                body = await _first_bytes(response)
            return Attempt(
                started_at,
                time.monotonic() - started,
                headers,
                response.status_code,
                dict(response.headers),
                body,
                diagnosis=diagnose(response.status_code, body),
            )
        except TimeoutError:
            error = f"No answer within {self._timeout_s:g} s."
        except (httpx.HTTPError, httpx.InvalidURL, AddressRefused) as failure:
            error = f"{type(failure).__name__}: {failure}"
        return Attempt(started_at, time.monotonic() - started, headers, error=error)


async def _first_bytes(response: httpx.Response) -> str:
    body = b""
    async for chunk in response.aiter_raw():  # not decoded: a compressed answer could unpack to anything
        body += chunk
        if len(body) >= LOGGED_BYTES:
            break
    return body[:LOGGED_BYTES].decode(errors="replace")


async def deliver_forever(outbox: Outbox, sender: WebhookSender, *, poll_s: float = 0.5) -> None:
    """Attempt what is due in `outbox`, CONCURRENT at a time, until cancelled.

    An attempt that a crash cuts short was not recorded, so it is made again after the restart: at least once.
    """
    in_flight: set[str] = set()

    async def settle(delivery: Delivery) -> None:
        try:
            attempt = await sender.attempt(delivery)
            await outbox.record(delivery, attempt, next_attempt(delivery, attempt))
        finally:
            in_flight.discard(delivery.id)
            outbox.wake()  # there is room for another

    async with asyncio.TaskGroup() as attempts:
        while True:
            for delivery in await outbox.due(datetime.now(UTC), CONCURRENT):
                if delivery.id not in in_flight and len(in_flight) < CONCURRENT:
                    in_flight.add(delivery.id)
                    attempts.create_task(settle(delivery))
            await outbox.changed(poll_s)
