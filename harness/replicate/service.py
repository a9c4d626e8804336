"""All parts of one local Replicate, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.replicate import catalogue, predictions, retention
from harness.replicate.addresses import AddressRules
from harness.replicate.catalogue import Resolver, Served
from harness.replicate.changes import Changes
from harness.replicate.database import Database
from harness.replicate.files import Blobs
from harness.replicate.inputs import Inputs
from harness.replicate.intake import Intake
from harness.replicate.lifecycle import Lifecycle
from harness.replicate.model_servers import Runs
from harness.replicate.outbox import Outbox
from harness.replicate.outputs import Outputs
from harness.replicate.predictions import Prediction
from harness.replicate.rehearsals import RateLimit
from harness.replicate.runner import Deadlines, Runner
from harness.replicate.settings import Settings
from harness.replicate.webhooks import WebhookSender, deliver_forever, signing_secret

_log = logging.getLogger(__name__)
_AGAIN_S = 1.0


class Service:
    """One local Replicate without its HTTP side; `running` brings it to life."""

    def __init__(
        self, settings: Settings, servers: Sequence[Runs], document: dict[str, Any], received: Path | None = None
    ) -> None:
        """Put the parts together.

        document: the OpenAPI document of the model behind `servers`.
        received: the directory in which those on this machine leave output files, if they do.
        """
        self.settings = settings
        self.served = Served.of(settings.model, settings.version_aliases, document)
        self.resolver = Resolver(self.served, strict=settings.strict)
        self.database = Database(settings.store)
        self.blobs = Blobs(settings.blobs)
        self.changes = Changes()
        self.outbox = Outbox(self.database)
        self.lifecycle = Lifecycle(self.database, self.outbox, self.changes, settings)
        private = not settings.strict  # the hosted service reaches public addresses only
        rules = AddressRules.for_server(settings.host, settings.allow_private) if private else AddressRules()
        self._rules = rules
        self.inputs = Inputs(self.database, self.blobs, rules, settings)
        self.outputs = Outputs(self.blobs, settings, received)
        self.intake = Intake(self.database, self.lifecycle, self.inputs, self.outputs, self.served, settings)
        self.runner = Runner(servers, self.lifecycle, self.inputs, self.outputs, self.served, settings)
        self.deadlines = Deadlines(self._expire)
        self.rate_limit = RateLimit(settings.rehearsals.rate_limit_per_min)
        self.webhook_secret = ""
        self.key = b""  # for signatures of our own

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the store, put right what the last process left, and serve the queue and the outbox for the block."""
        await asyncio.to_thread(self._open)
        try:
            await self.database.write(lambda c: catalogue.register(c, self.served, version("cog")))
            await self.database.read(lambda c: retention.sweep(c, self.blobs))
            for prediction in await self.database.read(predictions.with_deadline):
                self.deadlines.watch(prediction)
            async with self._background():
                yield
        finally:
            await asyncio.to_thread(self.database.close)

    def _open(self) -> None:
        self.database.open()
        self.blobs.open()
        self.webhook_secret = signing_secret(self.settings.data / "webhook-secret")
        self.key = signing_secret(self.settings.data / "files-secret").encode()

    @asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        sender = WebhookSender(self.webhook_secret, self._rules, timeout_s=self.settings.webhook_timeout_s)
        jobs: list[Callable[[], Awaitable[None]]] = [
            self._serve_queue,
            lambda: deliver_forever(self.outbox, sender),
            lambda: retention.keep_tidy(self.database, self.blobs, self.settings),
        ]
        tasks = [asyncio.create_task(_kept_going(job)) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await sender.aclose()

    async def _serve_queue(self) -> None:
        await self.lifecycle.recover()
        await self.runner.run()

    async def cancel(self, prediction_id: str, kind: str = "prediction") -> Prediction | None:
        """Cancel a prediction for its user, queued or running; None if unknown, unchanged if it has ended."""
        return await self._cancel(prediction_id, kind, queued_end="canceled")

    async def _expire(self, prediction: Prediction) -> None:
        # Some clients know no "aborted" and others poll on it for ever, so only --strict says what the service would.
        queued_end = "aborted" if self.settings.strict else "canceled"
        await self._cancel(prediction.id, prediction.kind, queued_end=queued_end)

    async def _cancel(self, prediction_id: str, kind: str, *, queued_end: str) -> Prediction | None:
        prediction = await self.lifecycle.request_cancel(prediction_id, kind, queued_end)
        if prediction is None or prediction.terminal:
            return prediction
        self.runner.cancel(prediction.id)
        return await self.lifecycle.ended(prediction, timeout_s=1.0)


async def _kept_going(job: Callable[[], Awaitable[None]]) -> None:
    """Start a job again when it fails unexpectedly: the queue or the outbox must not stand still unnoticed."""
    while True:
        try:
            return await job()
        except Exception:
            _log.exception("a background job failed and is started again")
            await asyncio.sleep(_AGAIN_S)
