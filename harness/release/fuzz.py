"""Fuzz: calls made up from the schema, and what no answer of a model server may do.

Every call must end in success or in a clean failure; the server must not crash, hang, tell a path of its machine, or
answer two equal calls differently. Hypothesis makes the calls from a seed and shrinks the first bad one. Answers are
remembered, so that a call has one verdict in a run, and a time limit ends the search without calling anything flaky.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from harness.errors import Busy, Crashed, HarnessError, InputRejected, NotReady, SetupFailed, TimedOut, Unreachable
from harness.model_server.client import ModelServer, Outcome, new_prediction_id
from harness.release.findings import Finding
from harness.release.strategies import Call, calls

CALL_TIMEOUT_S: Final = 60.0
_GONE: Final = (Crashed, Unreachable, SetupFailed, NotReady, Busy)
_ABSOLUTE_PATH: Final = re.compile(r"(?<![\w:/.@-])/(?:[\w.@+-]+/)+[\w.@+-]+|\b[A-Z]:\\[\w\\.-]+")
_FIXES: Final = {
    "FUZZ_CRASH": "Make the model fail instead of ending its process; the server's log says where.",
    "FUZZ_HANG": "Bound the work that one call can ask for.",
    "FUZZ_PATH_LEAK": "Leave paths out of errors and outputs.",
    "FUZZ_NOT_DETERMINISTIC": "Seed whatever is random, and keep nothing from one call to the next.",
    "FUZZ_REJECTED": "Let the schema say what the server takes.",
    "FUZZ_ACCEPTED": "Serve the schema that the source describes.",
    "FUZZ_NO_OUTPUT": "Raise an error instead of returning nothing.",
    "FUZZ_UNCLEAR_ERROR": "Fail with one sentence that says what was wrong.",
}


_SETTINGS: Final = settings(
    database=None,  # the same calls in every run
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    print_blob=False,
)


@dataclass(frozen=True)
class Budget:
    """How much to try. seed: of Hypothesis; equal seeds make equal calls."""

    examples: int = 60
    seconds: float = 120.0
    seed: int = 0
    call_timeout_s: float = CALL_TIMEOUT_S


async def fuzz(server: ModelServer, budget: Budget = Budget(), file: str = "predict.py") -> list[Finding]:
    """Try the server; at most one finding, shrunk to a small call. Raises HarnessError when it has no schema."""
    document = await server.schema()
    search = _Search(server, budget, asyncio.get_running_loop())
    return await asyncio.to_thread(search.findings, calls(document), file)


@dataclass(frozen=True)
class _Verdict:
    code: str
    text: str


class _Bad(Exception):
    """What Hypothesis shrinks."""


class _Over(BaseException):
    """Ends Hypothesis at once, which goes on after an Exception."""


@dataclass
class _Search:
    """Hypothesis is synchronous: it runs in a thread of its own and asks the client on the event loop."""

    server: ModelServer
    budget: Budget
    loop: asyncio.AbstractEventLoop
    known: dict[str, _Verdict | None] = field(default_factory=dict)
    ends_at: float = 0.0

    def findings(self, strategy: st.SearchStrategy[Call], file: str) -> list[Finding]:
        self.ends_at = time.monotonic() + self.budget.seconds
        bad: list[tuple[Call, _Verdict]] = []

        @seed(self.budget.seed)
        @settings(_SETTINGS, max_examples=self.budget.examples)
        @given(strategy)
        def try_one(call: Call) -> None:
            if (verdict := self.verdict(call)) is not None:
                bad.append((call, verdict))
                raise _Bad(verdict.code)

        with contextlib.suppress(_Bad, _Over):
            try_one()
        return [_finding(*min(bad, key=lambda pair: len(_key(pair[0]))), file)] if bad else []

    def verdict(self, call: Call) -> _Verdict | None:
        key = _key(call)
        if key not in self.known:
            if time.monotonic() > self.ends_at:
                raise _Over
            verdict = asyncio.run_coroutine_threadsafe(self.ask(call), self.loop).result()
            if verdict is not None and verdict.code in ("FUZZ_CRASH", "FUZZ_HANG"):
                self.ends_at = 0.0  # there is no server any more to shrink with
            self.known[key] = verdict
        return self.known[key]

    async def ask(self, call: Call) -> _Verdict | None:
        """Call twice and judge."""
        try:
            first, second = await self.once(call), await self.once(call)
        except TimedOut as error:
            return _Verdict("FUZZ_HANG", str(error))
        except _GONE as error:
            return _Verdict("FUZZ_CRASH", str(error))
        return judge(call, first, second)

    async def once(self, call: Call) -> Outcome | InputRejected:
        try:
            limit = self.budget.call_timeout_s
            return await self.server.run(new_prediction_id(), call.inputs, timeout_s=limit)
        except InputRejected as error:
            return error


def judge(call: Call, first: Outcome | InputRejected, second: Outcome | InputRejected) -> _Verdict | None:
    """Say what is wrong with the answers to two equal calls; None for nothing."""
    if isinstance(first, HarnessError) or isinstance(second, HarnessError):
        refused = isinstance(first, HarnessError)
        if refused and call.valid:
            return _Verdict("FUZZ_REJECTED", f"Inputs that the schema allows were refused: {_short(str(first))}.")
        return None
    if not call.valid:
        return _Verdict("FUZZ_ACCEPTED", "Inputs that the schema forbids were accepted.")
    if (first.status, first.output, first.error) != (second.status, second.output, second.error):
        return _Verdict("FUZZ_NOT_DETERMINISTIC", "Two equal calls were answered differently.")
    if path := leaked_path(call.inputs, first):
        return _Verdict("FUZZ_PATH_LEAK", f"The answer tells the path {path}.")
    if first.status == "succeeded":
        return None if first.output is not None else _Verdict("FUZZ_NO_OUTPUT", "It succeeded without an output.")
    error = (first.error or "").strip()
    if not error or "\n" in error or "Traceback" in error:
        return _Verdict("FUZZ_UNCLEAR_ERROR", f"It failed with the error {_short(error)!r}.")
    return None


def leaked_path(inputs: Mapping[str, Any], outcome: Outcome) -> str | None:
    """Return an absolute path in an answer that the caller did not send; logs are the operator's, and not searched."""
    sent = json.dumps(dict(inputs))
    texts = [outcome.error or "", json.dumps(outcome.metrics), *_plain_texts(outcome.output)]
    found = (match.group() for text in texts for match in _ABSOLUTE_PATH.finditer(text))
    return next((path for path in found if path not in sent), None)


def _plain_texts(output: Any) -> list[str]:  # noqa: ANN401 - a JSON value
    """The texts of an output, without the content of files."""
    if isinstance(output, str):
        return [output.partition(",")[0] if output.startswith("data:") else output]
    if isinstance(output, list | dict):
        return [
            text for each in (output.values() if isinstance(output, dict) else output) for text in _plain_texts(each)
        ]
    return []


def _key(call: Call) -> str:
    return json.dumps([call.inputs, call.valid], sort_keys=True)


def _finding(call: Call, verdict: _Verdict, file: str) -> Finding:
    message = f"{verdict.text} Inputs: {_shown(call.inputs)}."
    return Finding(verdict.code, "error", file, message, _FIXES[verdict.code])


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _shown(inputs: Mapping[str, Any]) -> str:
    """Inputs as one can type them; a picture whole if it is small."""
    return json.dumps({name: value[:400] if isinstance(value, str) else value for name, value in inputs.items()})
