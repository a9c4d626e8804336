"""A version on Replicate, run as a model server is run: for cases on the live version."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.model_server.client import Outcome
from harness.model_server.files import read_output
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
            InputRejected: its schema forbids these inputs; such a prediction costs nothing.
            HarnessError: Replicate refuses, does not answer, or does not end in time.
        """
        return await asyncio.to_thread(self._run, input, timeout_s)

    def _run(self, inputs: Mapping[str, Any], timeout_s: float) -> Outcome:
        done = self.account.predict(self.version, {name: _as_file(value) for name, value in inputs.items()}, timeout_s)
        return Outcome(done.id, done.status, _as_data_url(with_content(done.output)), done.error, done.logs or "")


def _as_file(value: Any) -> Any:  # noqa: ANN401 - a JSON value, or a file
    """Turn a data URL into a file, which the client uploads: Replicate wants none above 256 kB in a request."""
    if not (isinstance(value, str) and value.startswith("data:")):
        return value
    content, extension = read_output(value)
    file = io.BytesIO(content)
    file.name = f"input{extension}"
    return file


def _as_data_url(output: Any) -> Any:  # noqa: ANN401 - a JSON value, with bytes for files
    if isinstance(output, list):
        return [_as_data_url(item) for item in output]
    if isinstance(output, bytes):
        return f"data:application/octet-stream;base64,{base64.b64encode(output).decode()}"
    return output
