"""Client of one model server: Cog's HTTP API with its surprises taken out.

Cog answers 200 to every health check, refuses a request that follows a finished one too closely, echoes no logs of a
failed prediction and never says that its worker is gone for good. `ModelServer` turns all of that into typed results
and the errors of `harness.errors`.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

import httpx

from harness.errors import Busy, Crashed, InputRejected, ModelServerError, NotReady, TimedOut, Unreachable, UsageError
from harness.model_server.answers import (
    Health,
    Outcome,
    answer_of,
    health_from,
    never_ready,
    outcome_from,
    usable,
    violations,
)

if TYPE_CHECKING:
    from harness.model_server.receiver import Events, Receiver  # a web server, which few clients need

__all__ = ["Health", "ModelServer", "OnLogs", "Outcome", "new_prediction_id"]

OnLogs = Callable[[str], None]
"""Called with each new piece of a running prediction's logs."""

HEALTH_TIMEOUT_S: Final = 20.0  # Cog asks the worker, and a worker inside a long C call answers late
CONNECT_TIMEOUT_S: Final = 5.0
STARTED_S: Final = 1.0  # by which Cog has surely called the predictor; milliseconds, where the machine is idle
SLOT_WAIT_S: Final = 5.0  # a finished prediction gives its slot back within milliseconds
LOGS_EVERY_S: Final = 0.5
CANCEL_PAUSES_S: Final = (0.0, 0.05, 0.2)  # a prediction that has not begun by then never will
FIRST_LOGS_S: Final = 0.1  # so that a quick prediction is not asked after at all
EVENT_WAIT_S: Final = 1.0  # the last webhook is sent at about the same time as the answer

_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def new_prediction_id() -> str:
    """Return a fresh id that is safe as the path component that Cog makes of it."""
    return uuid.uuid4().hex


class ModelServer:
    """One Cog server at `url`; use as an async context manager, or call `close()`."""

    def __init__(self, url: str, receiver: Receiver | None = None) -> None:
        """`receiver`: takes the server's webhooks; without one the logs of a running prediction are polled."""
        self.url = url.rstrip("/")
        self._receiver = receiver
        limits = httpx.Timeout(HEALTH_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        # trust_env: a proxy for the internet must not swallow requests to this machine
        self._http = httpx.AsyncClient(base_url=self.url, timeout=limits, trust_env=False)
        self._schema: dict[str, Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a prediction still held open by `run` is cancelled by that."""
        await self._http.aclose()

    async def health(self) -> Health:
        """Return the server's health.

        Raises:
            Unreachable: nothing answers, or not in time.
        """
        return health_from(await self._request("GET", "/health-check"))

    async def wait_ready(self, timeout_s: float) -> Health:
        """Wait until predictions are taken.

        Raises:
            SetupFailed: the predictor's setup raised; the message carries its reason.
            Crashed: the worker died.
            NotReady: still starting after `timeout_s` seconds.
            Unreachable: nothing answered within `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            last: Health | Unreachable
            try:
                last = usable(await self.health())
            except Unreachable as error:
                last = error
            if isinstance(last, Health) and last.takes_predictions:
                return last
            if time.monotonic() >= deadline:
                raise never_ready(self.url, last, timeout_s)
            await asyncio.sleep(0.1)

    async def schema(self) -> dict[str, Any]:
        """Return the OpenAPI document that the server enforces; fetched once.

        Raises:
            NotReady: the server is still starting, or has no schema.
            Unreachable: nothing answers, or not in time.
        """
        if self._schema is None:
            response = await self._request("GET", "/openapi.json")
            if response.status_code != 200:
                raise NotReady(f"The model server at {self.url} has no schema yet; wait until it is READY.")
            self._schema = answer_of(response)
        return self._schema

    async def cancel(self, prediction_id: str) -> bool:
        """Cancel a running prediction, as soon as that is safe; returns False when the server runs none of that id."""
        await self._begun(prediction_id, posted=False)
        response = await self._request("POST", f"/predictions/{_checked(prediction_id)}/cancel")
        return response.status_code == 200

    async def logs_of(self, prediction_id: str) -> str | None:
        """Return the logs so far of a running prediction; None when it does not run, or cannot be asked for safely.

        There is no endpoint for it: PUT with a running id answers with its state. The input stays empty. Cog looks for
        a running prediction first and validates second, so with a required input in the schema a PUT that comes too
        late is refused (422) and can never start a run; without one, it must not be sent.
        """
        inputs = (await self.schema())["components"]["schemas"].get("Input", {})
        if not inputs.get("required"):
            return None
        answer = await self._request("PUT", f"/predictions/{_checked(prediction_id)}", json={"input": {}})
        return answer_of(answer).get("logs", "") if answer.status_code == 202 else None

    async def run(
        self,
        prediction_id: str,
        input: Mapping[str, Any],
        *,
        on_logs: OnLogs | None = None,
        timeout_s: float = 600.0,
    ) -> Outcome:
        """Run one prediction to its end; cancelling the task that awaits this cancels the prediction.

        `input` is what Cog takes: JSON values, files as http or data URLs. A failed prediction is an `Outcome`, not an
        exception.

        Raises:
            InputRejected: the schema forbids the inputs; the message names each.
            Busy: the slot stayed taken by somebody else.
            NotReady: setup is not done. SetupFailed: it failed.
            Crashed: the worker or the server died in the middle.
            TimedOut: no end after `timeout_s` seconds; the prediction has been cancelled.
            Unreachable: nothing answers.
        """
        body = {"id": _checked(prediction_id), "input": dict(input)}
        heard = _Logs(on_logs)
        async with self._following(prediction_id, heard) as events:
            try:
                response = await self._post(body | (events.request if events else {}), timeout_s)
            except (asyncio.CancelledError, TimedOut):
                await self._cancel_by_name(prediction_id)
                raise
            if response.status_code != 200:
                raise await self._refusal(response)
            outcome = outcome_from(response)
            if events and not outcome.logs:  # as after every failure
                heard.now(await events.completed(EVENT_WAIT_S))
        heard.now(outcome.logs)
        return replace(outcome, logs=heard.text)

    async def _cancel_by_name(self, prediction_id: str) -> None:
        """Cancel explicitly too: Cog overlooks a caller that hangs up before the prediction has begun."""
        for pause_s in CANCEL_PAUSES_S:
            await asyncio.sleep(pause_s)
            try:
                if await self.cancel(prediction_id):
                    return
            except ModelServerError:
                return  # whoever asks next is told

    async def _post(self, body: dict[str, Any], timeout_s: float) -> httpx.Response:
        """POST and wait for the end, within the time limit."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._post_when_free(body)
        except TimeoutError as error:
            raise TimedOut(f"Prediction {body['id']} did not end within {timeout_s:g} s.") from error

    async def _post_when_free(self, body: dict[str, Any]) -> httpx.Response:
        """POST until the slot is free: Cog gives it back a little after it has answered the prediction before."""
        deadline, pause_s = time.monotonic() + SLOT_WAIT_S, 0.002
        while True:
            response = await self._held_open(body)
            if response.status_code != 409 or time.monotonic() > deadline:
                return response
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.25)

    async def _held_open(self, body: dict[str, Any]) -> httpx.Response:
        """POST; a cancellation closes the connection, as soon as that is safe."""
        request = asyncio.create_task(
            self._request("POST", "/predictions", json=body, timeout=_HELD_OPEN, lost=Crashed)
        )
        try:
            return await asyncio.shield(request)
        except asyncio.CancelledError:
            begun = asyncio.create_task(self._begun(body["id"], posted=True))
            try:
                await asyncio.wait([request, begun], return_when=asyncio.FIRST_COMPLETED)
            finally:
                begun.cancel()
                request.cancel()
                await asyncio.gather(request, begun, return_exceptions=True)
            raise

    async def _begun(self, prediction_id: str, *, posted: bool) -> None:
        """Return when the predictor's own code runs, which its logs show, or has had the time to.

        `posted`: the prediction is on its way, so that a server which does not know it yet soon will.

        Before that, Cog starts a thread to fetch the inputs, and Python 3.11 gives an exception that is raised in the
        prediction's thread to that one instead: it dies, and the slot is taken for ever (Cog 0.23.1).
        """
        deadline, pause_s = time.monotonic() + STARTED_S, 0.005
        while time.monotonic() < deadline:
            logs = await self.logs_of(prediction_id)
            if logs or (logs is None and not posted):
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.25)

    async def _refusal(self, response: httpx.Response) -> ModelServerError:
        """Return the error that an HTTP status other than 200 stands for."""
        match response.status_code:
            case 422 | 400 | 415:
                return InputRejected(violations(response))
            case 413:
                return InputRejected("The inputs are over Cog's limit of 100 MiB for one request; pass a smaller file.")
            case 409 | 503:
                return await self._not_taken(response.status_code)
        return ModelServerError(f"The model server answered HTTP {response.status_code}, which it never should.")

    async def _not_taken(self, status_code: int) -> ModelServerError:
        try:
            health = usable(await self.health())
        except ModelServerError as error:
            return error
        if status_code == 503:
            return NotReady(f"The model server at {self.url} is {health.status}; wait until it is READY.")
        return Busy(f"The model server at {self.url} runs another prediction; try again later or add replicas.")

    @asynccontextmanager
    async def _following(self, prediction_id: str, heard: _Logs) -> AsyncIterator[Events | None]:
        """Pass logs on while the block runs: by webhooks if the server can reach us, else by polling."""
        with ExitStack() as stack:
            events = stack.enter_context(self._receiver.following(prediction_id)) if self._receiver else None
            follower = asyncio.create_task(_heed(events, heard) if events else self._poll(prediction_id, heard))
            try:
                yield events
            finally:
                follower.cancel()
                await asyncio.wait([follower])
                if not follower.cancelled():
                    follower.result()  # whoever listens may have raised

    async def _poll(self, prediction_id: str, heard: _Logs) -> None:
        if heard.listener is None:
            return
        await asyncio.sleep(FIRST_LOGS_S)
        while True:
            began = time.monotonic()
            try:
                heard.now(await self.logs_of(prediction_id) or "")
            except ModelServerError:
                return  # the prediction's own request reports it
            # the answer repeats the whole input: with a large photo, poll less often
            await asyncio.sleep(max(LOGS_EVERY_S, 10 * (time.monotonic() - began)))

    async def _request(
        self,
        method: str,
        path: str,
        *,
        lost: type[ModelServerError] = Unreachable,
        **options: Any,  # noqa: ANN401 - httpx's own
    ) -> httpx.Response:
        """Send a request; `lost` is what it means when the connection breaks after it was sent."""
        if self._http.is_closed:
            raise Unreachable(f"The connection to the model server at {self.url} has been closed.")
        try:
            return await self._http.request(method, path, **options)
        except (httpx.ConnectError, httpx.TimeoutException) as error:
            raise Unreachable(f"No model server answers at {self.url} ({type(error).__name__}); start one.") from error
        except httpx.TransportError as error:
            raise lost(f"The model server at {self.url} went away in the middle of a request.") from error


_HELD_OPEN = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S, write=60.0)  # the read is bounded by run()'s own timeout


class _Logs:
    """Cumulative logs on one side, new pieces on the other."""

    def __init__(self, listener: OnLogs | None) -> None:
        self.listener = listener
        self.text = ""

    def now(self, text: str) -> None:
        """Take the logs so far; Cog sends none with a failure, which must not erase what was heard."""
        new = text[len(self.text) :]
        if not new:
            return
        self.text = text
        if self.listener is not None:
            self.listener(new)


async def _heed(events: Events, heard: _Logs) -> None:
    while True:
        heard.now(await events.news())


def _checked(prediction_id: str) -> str:
    if _SAFE_ID.fullmatch(prediction_id) is None:
        raise UsageError("A prediction id is 1 to 64 letters, digits, '-' or '_': Cog makes a directory of it.")
    return prediction_id
