"""What a receiver of webhooks relies on: the signature, retries under one id, and a log that explains a refusal."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import standardwebhooks

from harness.replicate.addresses import AddressRules
from harness.replicate.webhooks import (
    BLOCKED_HOST,
    RETRY_DELAYS_S,
    UNDECODED_KEY,
    Attempt,
    Delivery,
    EventFilter,
    WebhookSender,
    deliver_forever,
    next_attempt,
    signed_headers,
    signing_secret,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Receiver(ThreadingHTTPServer):
    """Records what arrives and answers with the next of `answers`, then 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server_address[1]}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        status, headers, answer = self.server.answers.pop(0) if self.server.answers else (200, {}, b"ok")
        self.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def attempt(delivery: Delivery, rules: AddressRules | None = None, timeout_s: float = 5) -> Attempt:
    async def once() -> Attempt:
        sender = WebhookSender(SECRET, rules or AddressRules.for_server("127.0.0.1"), timeout_s=timeout_s)
        try:
            return await sender.attempt(delivery)
        finally:
            await sender.aclose()

    return asyncio.run(once())


def delivery(url: str, event: str = "completed", attempts: int = 0) -> Delivery:
    return Delivery("msg_1", url, event, b'{"id":"p1","status":"succeeded"}', attempts)


def answered(status: int, **headers: str) -> Attempt:
    return Attempt(NOW, 0.0, {}, status, headers)


def test_the_signature_is_the_published_test_vector() -> None:
    body, at = b'{"test": 2432232314}', datetime.fromtimestamp(1614265330, UTC)
    headers = signed_headers(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, body)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


def test_the_secret_is_made_once_for_its_owner_and_splits_as_clients_split_it(tmp_path: Path) -> None:
    path = tmp_path / "webhook-secret"
    secret = signing_secret(path)
    assert signing_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    prefix, key = secret.split("_")
    assert prefix == "whsec"
    assert len(base64.b64decode(key, validate=True)) == 24
    assert signing_secret(tmp_path / "another") != secret


def test_a_delivery_arrives_signed_whole_and_for_the_host_of_its_url(receiver: Receiver) -> None:
    result = attempt(delivery(receiver.url))
    [(path, headers, body)] = receiver.received
    assert (result.status, result.response_body, result.accepted) == (200, "ok", True)
    assert path == "/hook"
    assert headers["host"] == f"localhost:{receiver.server_address[1]}"  # Rails blocks any other
    assert headers["content-type"] == "application/json"
    standardwebhooks.Webhook(SECRET).verify(body, headers)
    assert json.loads(body)["status"] == "succeeded"


def test_a_redirect_is_a_failure_and_is_not_followed(receiver: Receiver) -> None:
    receiver.answers = [(302, {"Location": receiver.url}, b"")]
    result = attempt(delivery(receiver.url))
    assert not result.accepted
    assert len(receiver.received) == 1


def test_a_private_receiver_is_refused_unless_listed(receiver: Receiver) -> None:
    result = attempt(delivery(receiver.url), AddressRules.for_server("0.0.0.0"))
    assert result.status is None
    assert result.error is not None
    assert "not a public address" in result.error
    assert receiver.received == []


def test_no_receiver_and_a_nonsense_url_are_logged_not_raised() -> None:
    assert "ConnectError" in str(attempt(delivery("http://localhost:1/")).error)
    assert attempt(delivery("not a url")).error


def test_a_silent_receiver_ends_at_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and says nothing
        result = attempt(delivery(f"http://127.0.0.1:{silent.getsockname()[1]}/"), timeout_s=0.1)
    assert result.error == "No answer within 0.1 s."


def test_the_log_keeps_the_start_of_a_long_answer(receiver: Receiver) -> None:
    receiver.answers = [(500, {}, b"x" * 100_000)]
    assert attempt(delivery(receiver.url)).response_body == "x" * 4096


def test_the_log_names_the_mistake_of_the_flask_sample(receiver: Receiver) -> None:
    """A receiver that keys its HMAC with the secret's text, as the sample does, really refuses our signature."""
    result = attempt(delivery(receiver.url))
    _, headers, body = receiver.received[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wrong = base64.b64encode(hmac.new(SECRET.split("_")[1].encode(), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] != f"v1,{wrong}"
    assert result.diagnosis is None

    receiver.answers = [(403, {}, b"Invalid signature"), (403, {}, b"<h1>Blocked hosts: app.local</h1>")]
    assert attempt(delivery(receiver.url)).diagnosis == UNDECODED_KEY
    assert attempt(delivery(receiver.url)).diagnosis == BLOCKED_HOST


@pytest.mark.parametrize("status", [200, 204, 299, 410])
def test_accepted_and_gone_end_the_attempts(status: int) -> None:
    assert next_attempt(delivery("http://x/"), answered(status)) is None


@pytest.mark.parametrize("event", ["start", "output", "logs"])
def test_only_the_terminal_event_is_tried_again(event: str) -> None:
    assert next_attempt(delivery("http://x/", event), answered(500)) is None


def test_retries_grow_and_end_about_a_minute_after_completion() -> None:
    at, gaps = NOW, []
    for made in range(100):
        following = next_attempt(delivery("http://x/", attempts=made), Attempt(at, 0.0, {}, error="refused"))
        if following is None:
            break
        gaps.append((following - at).total_seconds())
        at = following
    assert gaps == sorted(gaps)
    assert len(gaps) == len(RETRY_DELAYS_S) >= 3
    assert 50 <= (at - NOW).total_seconds() <= 70


@pytest.mark.parametrize(("asked", "seconds"), [("20", 20), ("0", 1), ("soon", 1), ("999999", 600)])
def test_retry_after_is_honoured_within_reason(asked: str, seconds: int) -> None:
    following = next_attempt(delivery("http://x/"), answered(503, **{"retry-after": asked}))
    assert following == NOW + timedelta(seconds=seconds)


def test_the_default_filter_is_output_and_completed() -> None:
    events = EventFilter()
    assert [e for e in ("start", "logs", "output", "completed") if events.wants("p", e, None)] == [
        "output",
        "completed",
    ]


def test_output_and_logs_are_throttled_each_on_its_own_and_start_and_completed_never() -> None:
    events, everything = EventFilter(), ["start", "output", "logs", "completed"]
    sent = [event for _ in range(3) for event in everything[:3] if events.wants("p", event, everything)]
    assert sent == ["start", "output", "logs", "start", "start"]
    assert events.wants("another", "output", everything)
    assert events.wants("p", "completed", everything)
    assert not events.wants("p", "completed", ["start"])


class ListOutbox:
    """An outbox in memory; `retry_s` stands for the schedule, so that a test need not wait a minute."""

    def __init__(self, deliveries: list[Delivery]) -> None:
        self.pending = {d.id: d for d in deliveries}
        self.log: list[tuple[str, Attempt]] = []
        self.settled = asyncio.Event()

    async def due(self, now: datetime, limit: int) -> list[Delivery]:
        return list(self.pending.values())[:limit]

    async def record(self, delivery: Delivery, attempt: Attempt, next_attempt_at: datetime | None) -> None:
        self.log.append((delivery.id, attempt))
        if next_attempt_at is None:
            del self.pending[delivery.id]
        else:
            again = Delivery(delivery.id, delivery.url, delivery.event, delivery.body, delivery.attempts + 1)
            self.pending[delivery.id] = again
        if not self.pending:
            self.settled.set()

    def wake(self) -> None:
        pass

    async def changed(self, timeout_s: float) -> None:
        await asyncio.sleep(0.001)


def test_the_outbox_is_emptied_with_one_id_for_all_attempts_of_a_delivery(receiver: Receiver) -> None:
    receiver.answers = [(500, {}, b""), (404, {}, b"")]

    async def scenario() -> ListOutbox:
        outbox = ListOutbox([delivery(receiver.url)])
        sender = WebhookSender(SECRET, AddressRules.for_server("127.0.0.1"))
        loop = asyncio.create_task(deliver_forever(outbox, sender))
        await asyncio.wait_for(outbox.settled.wait(), 20)
        loop.cancel()
        await asyncio.wait([loop])
        return outbox

    outbox = asyncio.run(scenario())
    assert [entry.status for _, entry in outbox.log] == [500, 404, 200]
    assert {headers["webhook-id"] for _, headers, _ in receiver.received} == {"msg_1"}
