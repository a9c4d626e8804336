"""A version on Replicate, run as a model server is run: for cases that compare with the live version."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.model_server.client import Outcome
from harness.release.account import Account
from harness.release.compare import with_content


@dataclass(frozen=True)
class RemoteVersion:
    """One version; every prediction of it costs money, or nothing where `account` is at the local Replicate."""

    account: Account
    version: str

    async def run(self, prediction_id: str, input: Mapping[str, Any], *, timeout_s: float) -> Outcome:
        """Run one prediction, under an id that Replicate gives it; files of the output come as data URLs.

        Raises:
            HarnessError: Replicate refuses, does not answer, or does not end in time.
        """
        return await asyncio.to_thread(self._run, input, timeout_s)

    def _run(self, inputs: Mapping[str, Any], timeout_s: float) -> Outcome:
        done = self.account.predict(self.version, inputs, timeout_s)
        return Outcome(done.id, done.status, _as_data_url(with_content(done.output)), done.error, done.logs or "")


def _as_data_url(output: Any) -> Any:  # noqa: ANN401 - a JSON value, with bytes for files
    if isinstance(output, list):
        return [_as_data_url(item) for item in output]
    if isinstance(output, bytes):
        return f"data:application/octet-stream;base64,{base64.b64encode(output).decode()}"
    return output
