"""The model servers behind a local Replicate: those it starts and keeps alive, or those that run already."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from harness.errors import HarnessError, ModelServerError, SetupFailed
from harness.model_server.client import ModelServer, Outcome
from harness.model_server.process import ServerProcess
from harness.model_server.receiver import Receiver
from harness.model_server.supervisor import Supervisor
from harness.service import Plan

_log = logging.getLogger(__name__)
_PATIENCE_S = 2.0  # with a model that starts, when its schema is known from the last time


class Runs(Protocol):
    """A model server as the runner needs it: one slot."""

    async def wait_ready(self, timeout_s: float) -> object:
        """Return when predictions are taken; raises SetupFailed when they never will be, others when not in time."""
        ...

    async def run(
        self,
        prediction_id: str,
        input: dict[str, Any],
        *,
        on_logs: Callable[[str], None] | None = None,
        timeout_s: float = 600.0,
    ) -> Outcome:
        """Run one prediction to its end; cancelling the task cancels the prediction."""
        ...

    async def schema(self) -> dict[str, Any]:
        """Return the OpenAPI document of the model, once it is ready."""
        ...


class Supervised:
    """A model server that its supervisor restarts until it gives up."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.run = supervisor.run

    async def wait_ready(self, timeout_s: float) -> object:
        """Return when predictions are taken. Raises SetupFailed when it was given up, TimeoutError when not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._supervisor.ready()
        except HarnessError as error:
            raise SetupFailed(str(error)) from error

    async def schema(self) -> dict[str, Any]:
        """Return the OpenAPI document of the model, once it is ready; raises what its supervisor gave up for."""
        return await (await self._supervisor.ready()).schema()


@asynccontextmanager
async def model_servers(behind: Plan | Sequence[str], data: Path) -> AsyncIterator[list[Runs]]:
    """Start the model servers of a plan for the block, or connect to those that run at these URLs already.

    data: the directory for their logs and what they send.
    """
    async with AsyncExitStack() as stack:
        if not isinstance(behind, Plan):
            yield [await stack.enter_async_context(ModelServer(url)) for url in behind]
            return
        from harness.plans import runtimes  # imports docker and cog

        receiver = await stack.enter_async_context(Receiver(received(data))) if behind.runtime == "process" else None
        supervisors = [Supervisor(runtime, receiver=receiver) for runtime in runtimes(behind, data)]
        for runtime in (supervisor.runtime for supervisor in supervisors):
            if receiver is not None and isinstance(runtime, ServerProcess):
                runtime.upload_url = receiver.upload_url
        yield [Supervised(await stack.enter_async_context(supervisor)) for supervisor in supervisors]


def received(data: Path) -> Path:
    """Where model servers on this machine put their output files."""
    return data.resolve() / "received"


async def model_document(servers: Sequence[Runs], data: Path) -> dict[str, Any]:
    """Return the model's OpenAPI document; the one of last time while the model is still starting.

    Raises the ModelServerError of the first server when there is neither.
    """
    kept = data / "model-schema.json"
    known = json.loads(kept.read_text()) if kept.exists() else None
    try:
        async with asyncio.timeout(None if known is None else _PATIENCE_S):
            document = await _schema(servers[0])
    except (TimeoutError, ModelServerError) as error:
        if known is None:
            raise
        _log.info("the model is not ready (%s); taking requests by the schema of last time", type(error).__name__)
        return cast(dict[str, Any], known)
    await asyncio.to_thread(kept.write_text, json.dumps(document))
    return document


async def _schema(server: Runs) -> dict[str, Any]:
    while True:
        try:
            await server.wait_ready(600.0)
            return await server.schema()
        except TimeoutError:
            continue
