"""The outbox of webhooks: written with the change that a message announces, emptied by `webhooks.deliver_forever`."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from harness.replicate import ids, views
from harness.replicate.database import Database
from harness.replicate.predictions import Prediction
from harness.replicate.tables import webhook_deliveries, webhook_messages
from harness.replicate.webhooks import Attempt, Delivery, EventFilter, new_webhook_id

_table = webhook_messages.c


class Outbox:
    """The messages that are promised and not settled; implements `webhooks.Outbox`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._events = EventFilter()  # used by the store's writer thread only
        self._added = asyncio.Event()

    def announce(self, connection: Connection, prediction: Prediction, event: str) -> None:
        """Promise a message in the transaction of the change it tells of, if its receiver asked for such events."""
        if prediction.webhook is None:
            return
        if not self._events.wants(prediction.id, event, prediction.webhook_events_filter):
            return
        moment = ids.now()
        message = {
            "id": new_webhook_id(),
            "prediction_id": prediction.id,
            "event": event,
            "url": prediction.webhook,
            "body": views.dumps(views.of(prediction, prediction.base_url)).decode(),
            "created_at": moment,
            "due_at": moment,
        }
        connection.execute(insert(webhook_messages).values(message))

    def wake(self) -> None:
        """Let the sender look at once."""
        self._added.set()

    async def changed(self, timeout_s: float) -> None:
        """Return when something was announced, or after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._added.wait()
        self._added.clear()

    async def due(self, now: datetime, limit: int) -> list[Delivery]:
        """Return up to `limit` messages to attempt now, the oldest first."""
        ready = select(webhook_messages).where(_table.state == "pending", _table.due_at <= ids.timestamp(now))
        rows = await self._database.read(lambda c: c.execute(ready.order_by(_table.due_at).limit(limit)).all())
        return [Delivery(row.id, row.url, row.event, row.body.encode(), row.attempts) for row in rows]

    async def record(self, delivery: Delivery, attempt: Attempt, next_attempt_at: datetime | None) -> None:
        """Log an attempt, and settle the message unless there is to be another."""
        await self._database.write(lambda c: _record(c, delivery, attempt, next_attempt_at))


def _record(connection: Connection, delivery: Delivery, attempt: Attempt, next_at: datetime | None) -> None:
    connection.execute(insert(webhook_deliveries).values(_delivery_row(delivery, attempt)))
    state = "pending" if next_at else "delivered" if attempt.accepted else "failed"
    change = update(webhook_messages).where(_table.id == delivery.id)
    due_at = ids.timestamp(next_at) if next_at else None
    connection.execute(change.values(state=state, due_at=due_at, attempts=_table.attempts + 1))


def _delivery_row(delivery: Delivery, attempt: Attempt) -> dict[str, Any]:
    return {
        "message_id": delivery.id,
        "attempt": delivery.attempts + 1,
        "sent_at": ids.timestamp(attempt.started_at),
        "duration_ms": attempt.duration_s * 1000,
        "request_headers": dict(attempt.request_headers),
        "response_status": attempt.status,
        "response_headers": dict(attempt.response_headers),
        "response_body": attempt.response_body,
        "error": attempt.error,
        "diagnosis": attempt.diagnosis,
    }


def messages(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """Return the newest messages with their attempts, newest first, bodies left out."""
    shown = [column for column in webhook_messages.c if column.name != "body"]
    rows = connection.execute(select(*shown).order_by(_table.number.desc()).limit(limit)).all()
    return [{**row._mapping, "deliveries": _deliveries(connection, row.id)} for row in rows]


def _deliveries(connection: Connection, message_id: str) -> list[dict[str, Any]]:
    own = select(webhook_deliveries).where(webhook_deliveries.c.message_id == message_id)
    return [dict(row._mapping) for row in connection.execute(own.order_by(webhook_deliveries.c.number))]


def redeliver(connection: Connection, message_id: str) -> bool:
    """Make a message due now, whatever became of it; False when there is no such message."""
    change = update(webhook_messages).where(_table.id == message_id).values(state="pending", due_at=ids.now())
    return connection.execute(change).rowcount == 1
