"""Keep one model server alive, and run predictions on it one after the other.

Cog never restarts a dead worker, and its process stays up after a failed setup. The supervisor watches, restarts with
growing pauses, and gives up loudly; a prediction that was running when the server died raises `Crashed`, and none is
ever run twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from harness.errors import Crashed, HarnessError, ModelServerError, NotReady, TimedOut, Unreachable
from harness.model_server.client import ModelServer, OnLogs, Outcome
from harness.model_server.runtime import Runtime, last_lines

if TYPE_CHECKING:
    from harness.model_server.receiver import Receiver

Phase = Literal["starting", "ready", "restarting", "failed", "stopped"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long a supervisor waits for what, in seconds; the defaults suit a model that loads for a minute."""

    setup_s: float = 600.0
    prediction_s: float = 600.0
    release_s: float = 30.0  # a cancelled prediction may sit in a long C call
    silence_s: float = 60.0  # without a good health check
    watch_every_s: float = 2.0
    sweep_every_s: float = 60.0  # away with the scratch files of predictions that came past this supervisor
    first_pause_s: float = 1.0
    longest_pause_s: float = 30.0
    failures_in_a_row: int = 5


@dataclass(frozen=True)
class State:
    """What a supervisor is doing: `reason` is why it last restarted or gave up; `running` a prediction's id."""

    phase: Phase = "stopped"
    restarts: int = 0
    reason: str = ""
    running: str | None = None


class Supervisor:
    """One supervised model server; `async with Supervisor(runtime) as supervisor: await supervisor.run(...)`.

    Several replicas are several supervisors.
    """

    def __init__(self, runtime: Runtime, *, patience: Patience | None = None, receiver: Receiver | None = None) -> None:
        self.runtime: Final = runtime
        self.patience: Final = patience or Patience()
        self.state = State()
        self._receiver = receiver
        self._slot = asyncio.Lock()
        self._ill: asyncio.Future[HarnessError]
        self._server: asyncio.Future[ModelServer]
        self._keeper: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._failures = 0

    async def __aenter__(self) -> Self:
        self._server = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep())
        self._keeper.add_done_callback(self._keeper_ended)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._keeper, self._tidying):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if not self._server.done():
            self._server.set_exception(NotReady("The model server has been stopped."))
            self._server.exception()
        await self._stop_quietly()
        self._now(phase="stopped")

    async def ready(self) -> ModelServer:
        """Wait until predictions are taken; returns the client of the server that is up now.

        Raises:
            HarnessError: it was given up; the message says why and its note has the last lines of the server's log.
        """
        return await asyncio.shield(self._server)

    async def run(
        self,
        prediction_id: str,
        input: Mapping[str, Any],
        *,
        on_logs: OnLogs | None = None,
        timeout_s: float | None = None,
    ) -> Outcome:
        """Run one prediction, after those that came before it; waits while the server starts or restarts.

        Cancelling the awaiting task cancels the prediction. Raises what `ModelServer.run` and `ready` raise.
        """
        async with self._slot:
            while True:
                server = await self._idle()
                self._now(running=prediction_id)
                try:
                    return await server.run(
                        prediction_id,
                        input,
                        on_logs=on_logs,
                        timeout_s=self.patience.prediction_s if timeout_s is None else timeout_s,
                    )
                except Unreachable as error:  # it never began, so it can wait for the next server
                    self._report(server, error)
                except Crashed as error:
                    explained = await self._explained(error)
                    self._report(server, error)
                    raise explained from error
                finally:
                    self._now(running=None)
                    self._tidying = asyncio.create_task(self._tidy(server, prediction_id))

    async def _idle(self) -> ModelServer:
        """Return a READY server on which nothing of ours still runs."""
        if self._tidying is not None:
            await asyncio.wait([self._tidying])
        server = await self.ready()
        self._failures = 0  # it became READY and is put to use
        return server

    async def _tidy(self, server: ModelServer, prediction_id: str) -> None:
        """After a prediction: make sure that Cog let go of it, also when cancelled, and remove its scratch files."""
        deadline, pause_s = time.monotonic() + self.patience.release_s, 0.002
        with contextlib.suppress(Unreachable, Crashed):  # whoever sees that next reports it
            while await server.logs_of(prediction_id) is not None:
                if time.monotonic() > deadline:
                    self._report(server, TimedOut(f"Prediction {prediction_id} went on after it was cancelled."))
                    break
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.25)
        await self.runtime.discard(prediction_id)

    def _report(self, server: ModelServer, error: HarnessError) -> None:
        """Have the keeper restart `server`, unless it has done so already."""
        if self._server.done() and self._server.exception() is None and self._server.result() is server:
            self._server = asyncio.get_running_loop().create_future()
            self._ill.set_result(error)

    async def _keep(self) -> None:
        """Start the server, watch it, start it again: until cancelled or given up."""
        while True:
            error = await self._one_life()
            await self._stop_quietly()
            self._failures += 1
            if self._failures >= self.patience.failures_in_a_row:
                self._give_up(error)
                return
            self._now(phase="restarting", restarts=self.state.restarts + 1, reason=str(error))
            _log.warning("%s: %s Restarting.", self.runtime.name, error)
            await asyncio.sleep(self._pause_s())

    async def _one_life(self) -> HarnessError:
        """Start the server and watch it until it is ill; returns why."""
        self._now(phase="starting")
        self._ill = asyncio.get_running_loop().create_future()
        try:
            await self.runtime.start()
            async with ModelServer(self.runtime.url, self._receiver) as server:
                await self._set_up(server)
                self._server.set_result(server)
                self._now(phase="ready", reason="")
                return await self._explained(await self._watch(server))
        except HarnessError as error:
            return error
        except OSError as error:  # no memory for a process, a full disk
            return ModelServerError(f"The model server cannot be started: {error}.")
        finally:
            if self._server.done():
                self._server = asyncio.get_running_loop().create_future()

    async def _explained(self, error: HarnessError) -> HarnessError:
        """Add to a crash what only the runtime knows, such as memory that ran out."""
        if not isinstance(error, Crashed):
            return error
        try:
            why = await self.runtime.diagnosis()
        except HarnessError as silent:
            why = silent
        return Crashed(f"{error} {why}") if why else error

    async def _stop_quietly(self) -> None:
        try:
            await self.runtime.stop()
        except HarnessError as error:
            _log.warning("%s cannot be stopped: %s", self.runtime.name, error)

    async def _set_up(self, server: ModelServer) -> None:
        """Wait for READY, and no longer than its process lives."""
        waiting = asyncio.create_task(server.wait_ready(self.patience.setup_s))
        try:
            while not waiting.done():
                await asyncio.wait([waiting], timeout=0.5)
                if not waiting.done() and not await self.runtime.alive():
                    raise await self._explained(Crashed("The model server ended during setup."))
            await waiting
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])

    async def _watch(self, server: ModelServer) -> HarnessError:
        """Return what is wrong as soon as a prediction reports it or a look finds it."""
        looking = asyncio.create_task(self._look_after(server))
        try:
            await asyncio.wait([self._ill, looking], return_when=asyncio.FIRST_COMPLETED)
            return self._ill.result() if self._ill.done() else looking.result()
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    async def _look_after(self, server: ModelServer) -> HarnessError:
        """Look every few seconds; returns what is wrong."""
        began = good = swept = time.monotonic()
        while True:
            await asyncio.sleep(self.patience.watch_every_s)
            trouble = await self._look(server)
            if trouble is None:
                good = time.monotonic()
                if good - swept > self.patience.sweep_every_s:
                    await self._sweep(server)
                    swept = good
                if good - began > self.patience.silence_s:
                    self._failures = 0  # well for so long: its past is forgiven
            elif isinstance(trouble, Crashed) or time.monotonic() - good > self.patience.silence_s:
                return trouble

    async def _sweep(self, server: ModelServer) -> None:
        with contextlib.suppress(HarnessError):  # what is wrong, the next look finds
            if (await server.health()).status == "READY":
                await self.runtime.sweep()

    async def _look(self, server: ModelServer) -> HarnessError | None:
        """Return what is wrong right now: `Crashed` is for good, anything else may pass."""
        try:
            if not await self.runtime.alive():
                return Crashed("The model server ended.")
            health = await server.health()
        except HarnessError as error:
            return error
        if health.worker_gone:
            return Crashed("The model server's worker died.")
        if not health.takes_predictions:
            return NotReady(f"The model server says {health.status}: {health.error}")
        return None

    def _give_up(self, error: HarnessError) -> None:
        final = type(error)(
            f"The model server failed {self._failures} times in a row and was given up: {error} "
            f"Its log is {self.runtime.logs}."
        )
        final.add_note(f"Last lines of {self.runtime.logs}:\n{last_lines(self.runtime.logs)}")
        self._now(phase="failed", reason=str(error))
        _log.error("%s", final)
        self._server.set_exception(final)
        self._server.exception()  # nobody may be waiting yet

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        """Let nobody wait for ever if the keeper itself is broken."""
        if not keeper.cancelled() and (error := keeper.exception()) is not None and not self._server.done():
            self._now(phase="failed", reason=repr(error))
            self._server.set_exception(error)

    def _pause_s(self) -> float:
        return min(self.patience.first_pause_s * 2.0 ** (self._failures - 1), self.patience.longest_pause_s)

    def _now(self, **changes: Any) -> None:  # noqa: ANN401 - State's own fields
        self.state = replace(self.state, **changes)
