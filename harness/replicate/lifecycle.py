"""The life of predictions as the rest of the server sees it: each step is one commit, then told to whoever watches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from harness.replicate import files, predictions
from harness.replicate.changes import Changes
from harness.replicate.database import Database
from harness.replicate.outbox import Outbox
from harness.replicate.predictions import Prediction
from harness.replicate.settings import Settings
from harness.replicate.tables import JsonValue


class Lifecycle:
    """State changes of predictions, each in one transaction with the webhooks that announce it."""

    def __init__(self, database: Database, outbox: Outbox, changes: Changes, settings: Settings) -> None:
        self._database = database
        self._outbox = outbox
        self._changes = changes
        self._settings = settings
        self.queued = asyncio.Event()  # set when something may be waiting to run

    async def accept(self, prediction: Prediction, kept: Sequence[files.StoredFile] = ()) -> Prediction:
        """Store a new prediction and the files of its input; once this returns it cannot be lost."""

        def change(connection: Connection) -> Prediction:
            files.insert_all(connection, kept)
            return predictions.accept(connection, prediction, self._settings.max_queued)

        accepted = await self._database.write(change)
        self.queued.set()
        return accepted

    async def claim(self) -> Prediction | None:
        """Take the oldest queued prediction to run it, or None."""

        def change(connection: Connection) -> Prediction | None:
            prediction = predictions.claim(connection)
            if prediction is not None:
                self._outbox.announce(connection, prediction, "start")
            return prediction

        return await self._published(self._database.write(change))

    async def add_logs(self, prediction_id: str, piece: str) -> Prediction | None:
        """Keep a new piece of a running prediction's logs."""

        def change(connection: Connection) -> Prediction | None:
            prediction = predictions.add_logs(connection, prediction_id, piece, self._settings.max_logs)
            if prediction is not None:
                self._outbox.announce(connection, prediction, "logs")
            return prediction

        return await self._published(self._database.write(change))

    async def finish(
        self,
        prediction_id: str,
        status: str,
        *,
        output: JsonValue = None,
        kept: Sequence[files.StoredFile] = (),
        error: str | None = None,
        logs: str | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> Prediction | None:
        """End a prediction, with the files of its output; None when it had ended before."""
        logs = logs if logs is None else logs[: self._settings.max_logs]

        def change(connection: Connection) -> Prediction | None:
            files.insert_all(connection, kept)
            ended = predictions.finish(
                connection, prediction_id, status, output=output, error=error, logs=logs, metrics=metrics
            )
            return self._announce_end(connection, ended)

        return await self._published(self._database.write(change))

    def _announce_end(self, connection: Connection, ended: Prediction | None) -> Prediction | None:
        if ended is None:
            return None
        if ended.output is not None:
            unfinished = replace(ended, status="processing", completed_at=None, metrics=None)
            self._outbox.announce(connection, unfinished, "output")
        self._outbox.announce(connection, ended, "completed")
        return ended

    async def request_cancel(self, prediction_id: str, kind: str, queued_end: str = "canceled") -> Prediction | None:
        """End a queued prediction, mark a running one for the runner to stop; None if there is no such prediction."""

        def change(connection: Connection) -> Prediction | None:
            before = predictions.get(connection, prediction_id, kind)
            after = predictions.request_cancel(connection, prediction_id, kind, queued_end)
            if before is not None and after is not None and after.terminal and not before.terminal:
                self._announce_end(connection, after)
            return after

        return await self._published(self._database.write(change))

    async def requeue(self, prediction_id: str, *, lost: bool) -> None:
        """Put a running prediction back to its old place in the queue."""
        await self._published(self._database.write(lambda c: predictions.requeue(c, prediction_id, lost=lost)))
        self.queued.set()

    async def recover(self) -> None:
        """Put right what the end of the last process left running: cancelled ones end, others run again."""
        for prediction in await self._database.read(predictions.interrupted):
            if prediction.cancel_requested:
                await self.finish(prediction.id, "canceled")
            else:
                await self.requeue(prediction.id, lost=False)

    async def waiting(self) -> bool:
        """Return whether anything is queued."""
        return await self._database.read(predictions.waiting)

    async def get(self, prediction_id: str, kind: str = "prediction") -> Prediction | None:
        """Return a prediction as it is now, or None."""
        return await self._database.read(lambda c: predictions.get(c, prediction_id, kind))

    async def ended(self, prediction: Prediction, timeout_s: float) -> Prediction:
        """Return the prediction once it is terminal, or as it is after `timeout_s`."""
        with self._changes.watch(prediction.id) as states:
            try:
                async with asyncio.timeout(timeout_s):
                    prediction = await self.get(prediction.id, prediction.kind) or prediction
                    while not prediction.terminal:
                        prediction = await states.get()
            except TimeoutError:
                pass
        return prediction

    async def _published(self, change: Awaitable[Prediction | None]) -> Prediction | None:
        """Tell those who watch; also when the caller is cancelled, because the change is made all the same."""
        return await asyncio.shield(self._publish(change))

    async def _publish(self, change: Awaitable[Prediction | None]) -> Prediction | None:
        prediction = await change
        if prediction is not None:
            self._changes.publish(prediction)
            if prediction.webhook is not None:
                self._outbox.wake()
        return prediction
