"""The runner: takes predictions from the queue, one at a time for each model server, and sees each to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy.exc import OperationalError

from harness.errors import Busy, Crashed, HarnessError, NotReady, PredictionFailed, SetupFailed, Unreachable
from harness.replicate import ids
from harness.replicate.catalogue import Served
from harness.replicate.inputs import Inputs
from harness.replicate.lifecycle import Lifecycle
from harness.replicate.model_servers import Runs
from harness.replicate.outputs import Outputs
from harness.replicate.predictions import Prediction
from harness.replicate.settings import Settings

T = TypeVar("T")

_log = logging.getLogger(__name__)
_READY_S = 60.0  # how long one look at a starting model server lasts
_AGAIN_S = 1.0  # after which what failed is tried again
_COLD_AFTER_S = 60.0  # of idleness, for --cold-boot


class Runner:
    """Runs what is queued, oldest first; slots take turns in the order in which they became free."""

    def __init__(
        self,
        servers: Sequence[Runs],
        lifecycle: Lifecycle,
        inputs: Inputs,
        outputs: Outputs,
        served: Served,
        settings: Settings,
    ) -> None:
        self._servers = servers
        self._lifecycle = lifecycle
        self._inputs = inputs
        self._outputs = outputs
        self._served = served
        self._settings = settings
        self._turn = asyncio.Lock()  # its waiters are served in order
        self._running: dict[str, asyncio.Task[bool]] = {}
        self._cancelled: set[str] = set()
        self._broken: set[int] = set()  # slots whose model cannot be set up
        self._used = -float("inf")  # when a model server last ran something
        self._luck = random.Random(settings.rehearsals.fail_seed)  # noqa: S311  # a rehearsal that can be repeated

    async def run(self) -> None:
        """Serve the queue until cancelled; what runs then is put right by the next start."""
        async with asyncio.TaskGroup() as slots:
            for number, server in enumerate(self._servers):
                slots.create_task(self._slot(number, server))

    def cancel(self, prediction_id: str) -> None:
        """Stop a prediction that is running, or just about to; its cancellation is in the store already."""
        self._cancelled.add(prediction_id)
        if prediction_id in self._running:
            self._running[prediction_id].cancel()

    async def _slot(self, number: int, server: Runs) -> None:
        while True:
            try:
                await server.wait_ready(_READY_S)
            except (HarnessError, TimeoutError) as error:
                await self._not_ready(number, error)
                continue
            self._broken.discard(number)
            while await self._see_through(server, await self._next()):
                pass

    async def _not_ready(self, number: int, error: Exception) -> None:
        """Wait for a model server that starts; when none can be set up, end what waits for one with the reason."""
        if isinstance(error, SetupFailed):
            self._broken.add(number)
        if len(self._broken) == len(self._servers):
            await self._finish(await self._next(), "failed", error=str(error))
        else:
            await asyncio.sleep(_AGAIN_S)

    async def _next(self) -> Prediction:
        async with self._turn:
            while True:
                self._lifecycle.queued.clear()
                await self._boot()
                prediction = await _persistently(self._lifecycle.claim)
                if prediction is not None:
                    return prediction
                await self._lifecycle.queued.wait()

    async def _boot(self) -> None:
        """Rehearse a cold boot: after a pause the first prediction stays queued for a while."""
        cold = self._settings.rehearsals.cold_boot_s
        if cold and time.monotonic() - self._used > _COLD_AFTER_S and await self._lifecycle.waiting():
            await asyncio.sleep(cold)
            self._used = time.monotonic()

    async def _see_through(self, server: Runs, prediction: Prediction) -> bool:
        """Run a claimed prediction as a task of its own, which `cancel` can stop without stopping the slot.

        Returns whether the model server is well afterwards.
        """
        task = asyncio.create_task(self._attempt(server, prediction))
        self._running[prediction.id] = task
        if prediction.cancel_requested or prediction.id in self._cancelled:
            task.cancel()
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()  # if the slot itself is being stopped
            del self._running[prediction.id]
            self._cancelled.discard(prediction.id)
            self._used = time.monotonic()
        if not task.cancelled():
            return task.result()
        await self._finish(prediction, "canceled")
        return True

    async def _attempt(self, server: Runs, prediction: Prediction) -> bool:
        logs = _LogKeeper(self._lifecycle, prediction.id)
        try:
            self._refuse(prediction)
            await self._run(server, prediction, logs)
        except (Unreachable, NotReady, Busy):  # it never began
            await self._requeue(prediction, lost=False)
            return False
        except Crashed as error:
            await logs.settled()
            await self._lost(prediction, error)
            return False
        except Exception as error:  # whatever happens, the prediction must end and the slot go on
            await logs.settled()
            await self._finish(prediction, "failed", error=_reason(error))
        return True

    def _refuse(self, prediction: Prediction) -> None:
        if prediction.kind == "training":
            raise PredictionFailed("This model has no train() function, so it cannot be trained.")
        if self._luck.random() < self._settings.rehearsals.fail_rate:
            raise PredictionFailed("Rehearsal: this prediction was made to fail by --fail-rate.")

    async def _run(self, server: Runs, prediction: Prediction, logs: _LogKeeper) -> None:
        sent = await self._inputs.resolve(prediction.input, self._served.inputs.uris)
        outcome = await server.run(prediction.id, sent, on_logs=logs.add, timeout_s=self._settings.max_run_s)
        output, kept = await self._outputs.keep(outcome.output, prediction.id)
        await logs.settled()
        await self._finish(
            prediction,
            outcome.status,
            output=output,
            kept=kept,
            error=outcome.error,
            logs=outcome.logs,
            metrics=outcome.metrics,
        )

    async def _lost(self, prediction: Prediction, error: HarnessError) -> None:
        """Try once more after the model server was lost; a prediction that loses two is to blame itself."""
        _log.warning("model server lost under prediction %s: %s", prediction.id, error)
        if prediction.losses == 0:
            await self._requeue(prediction, lost=True)
        else:
            reason = f"The model server was lost twice while it ran this prediction; the last time: {error}"
            await self._finish(prediction, "failed", error=reason)

    async def _requeue(self, prediction: Prediction, *, lost: bool) -> None:
        await _persistently(lambda: self._lifecycle.requeue(prediction.id, lost=lost))

    async def _finish(self, prediction: Prediction, status: str, **ending: Any) -> None:  # noqa: ANN401  # passed on
        await _persistently(lambda: self._lifecycle.finish(prediction.id, status, **ending))


async def _persistently(change: Callable[[], Awaitable[T]]) -> T:
    """Make a change of the store, however long it takes: a full disk delays it and loses nothing."""
    while True:
        try:
            return await change()
        except OperationalError as error:
            _log.error("the store cannot be written, trying again: %s", error.orig)
            await asyncio.sleep(_AGAIN_S)


def _reason(error: Exception) -> str:
    """Return what the client may know of a failure."""
    match error:
        case HarnessError() | ValueError():
            return str(error)
        case OSError():
            return f"The local Replicate cannot keep files: {error.strerror}."
    _log.exception("unexpected failure of a prediction")
    return f"The local Replicate failed with {type(error).__name__}; its log says more."


class _LogKeeper:
    """Stores pieces of logs in the order in which they come, without holding up the model."""

    def __init__(self, lifecycle: Lifecycle, prediction_id: str) -> None:
        self._lifecycle = lifecycle
        self._prediction_id = prediction_id
        self._last: asyncio.Task[object] | None = None

    def add(self, piece: str) -> None:
        """Keep one more piece."""
        self._last = asyncio.create_task(self._after(self._last, piece))

    async def _after(self, previous: asyncio.Task[object] | None, piece: str) -> None:
        if previous is not None:
            await previous
        with contextlib.suppress(OperationalError):  # what the outcome says of logs comes later, and counts
            await self._lifecycle.add_logs(self._prediction_id, piece)

    async def settled(self) -> None:
        """Return when every piece is stored."""
        if self._last is not None:
            await self._last


class Deadlines:
    """Ends predictions whose Cancel-After has passed."""

    def __init__(self, expire: Callable[[Prediction], Any]) -> None:
        self._expire = expire
        self._tasks: set[asyncio.Task[Any]] = set()

    def watch(self, prediction: Prediction) -> None:
        """End `prediction` when its deadline comes, if it has one."""
        if prediction.deadline is not None:
            delay = ids.seconds_between(ids.now(), prediction.deadline)
            asyncio.get_running_loop().call_later(max(0.0, delay), self._due, prediction)

    def _due(self, prediction: Prediction) -> None:
        task = asyncio.ensure_future(self._expire(prediction))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
