"""A Replicate account through the public `replicate` client: the hosted service and the local Replicate alike.

Reading is tried again when the network or the service fails; creating a model is safe to try again, because one that
exists already is found; a prediction, which costs money, is never sent twice.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx
from replicate.client import Client
from replicate.deployment import Deployment
from replicate.exceptions import ReplicateError
from replicate.model import Model
from replicate.prediction import Prediction
from replicate.version import Version, Versions

from harness.answers import reason
from harness.errors import CredentialRefused, InputRejected, ReplicateFailed, SmokeFailed

T = TypeVar("T")

HOSTED: Final = "https://api.replicate.com"
TOKEN_COMMAND: Final = "export REPLICATE_API_TOKEN=r8_...   # from https://replicate.com/account/api-tokens"  # noqa: S105 # no token
TERMINAL: Final = frozenset({"succeeded", "failed", "canceled"})

_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Retries:
    """How often what is safe is tried, and the pause before the second try, which doubles; polling; seconds."""

    tries: int = 4
    pause_s: float = 1.0
    poll_s: float = 2.0


class Account:
    """The account that an API token belongs to; close it after use."""

    def __init__(self, token: str, base_url: str = HOSTED, retries: Retries | None = None) -> None:
        """`base_url`: an origin, as the client wants it; a trailing /v1, as other clients want it, is taken off."""
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.retries = retries or Retries()
        local = urlsplit(self.base_url).hostname in _LOOPBACK
        self._transport = httpx.HTTPTransport(trust_env=not local)
        self._client = Client(api_token=token, base_url=self.base_url, transport=self._transport, trust_env=not local)

    @classmethod
    def from_environment(cls) -> Account:
        """Use REPLICATE_API_TOKEN and REPLICATE_BASE_URL. Raises CredentialRefused without a token."""
        token = os.environ.get("REPLICATE_API_TOKEN", "").strip()
        if not token:
            raise CredentialRefused(f"No API token is set; create one and set it: {TOKEN_COMMAND}")
        if not _TOKEN.fullmatch(token):  # whoever sends it would say it in the error
            raise CredentialRefused(f"The API token has characters that no token has; set it again: {TOKEN_COMMAND}")
        return cls(token, os.environ.get("REPLICATE_BASE_URL") or HOSTED)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def username(self) -> str:
        """Return whose token it is. Raises CredentialRefused when it is nobody's."""
        return self._again(lambda: self._client.accounts.current().username)

    def model(self, name: str) -> Model | None:
        """Return a model ("owner/name"), None if this account sees none of that name."""
        return self._found(lambda: self._client.models.get(name))

    def create_model(self, name: str, hardware: str) -> Model | None:
        """Create a private model; None if there is one of that name, perhaps made by the first try of this call."""
        owner, _, short = name.partition("/")
        try:
            return self._again(
                lambda: self._client.models.create(owner, short, visibility="private", hardware=hardware)
            )
        except _Refused as error:
            if error.status == 409:
                return None
            raise

    def version(self, model: str, version: str) -> Version | None:
        """Return a version of a model, None if there is none."""
        return self._found(lambda: Versions(self._client, model).get(version))

    def predict(self, version: str, inputs: Mapping[str, Any], timeout_s: float) -> Prediction:
        """Run a prediction to its end; the one call that costs money, and it is sent once.

        Raises SmokeFailed when it has not ended in time; it is then cancelled. Raises InputRejected.
        """
        started = self._once(lambda: self._client.predictions.create(version=version, input=dict(inputs)))
        prediction = started
        deadline = time.monotonic() + timeout_s
        try:
            while prediction.status not in TERMINAL and time.monotonic() < deadline:
                time.sleep(self.retries.poll_s)
                prediction = self._again(lambda: self._client.predictions.get(started.id))
        except BaseException:
            self._abandon(started)
            raise
        if prediction.status not in TERMINAL:
            self._abandon(prediction)
            raise SmokeFailed(f"Prediction {prediction.id} did not end within {timeout_s:.0f} s; it was cancelled.")
        return prediction

    def deployments(self, model: str) -> list[Deployment]:
        """Return the account's deployments of a model."""
        page = self._again(self._client.deployments.list)
        found = list(page.results)
        while page.next:
            page = self._again(partial(self._client.deployments.list, page.next))
            found += page.results
        return [one for one in found if one.current_release and one.current_release.model == model]

    def deploy(self, deployment: Deployment, version: str) -> None:
        """Move a deployment to a version; doing so twice only makes one more release of the same."""
        self._again(lambda: self._client.deployments.update(deployment.owner, deployment.name, version=version))

    def _abandon(self, prediction: Prediction) -> None:
        """Cancel: what nobody waits for would go on costing."""
        self._again(lambda: self._client.predictions.cancel(prediction.id))

    def _found(self, call: Callable[[], T]) -> T | None:
        try:
            return self._again(call)
        except _Refused as error:
            if error.status == 404:
                return None
            raise

    def _again(self, call: Callable[[], T]) -> T:
        """Make a call that may safely be repeated, and repeat it while the network or the service fails."""
        pause_s = self.retries.pause_s
        for _ in range(self.retries.tries - 1):
            try:
                return self._once(call)
            except _Unwell:
                time.sleep(pause_s)
                pause_s *= 2
        return self._once(call)

    def _once(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except ReplicateError as error:
            raise self._translated(error) from error
        except ValueError as error:  # no JSON, or not of the API's kind
            raise _Unwell(
                f"{self.base_url} answers, but not as Replicate's API does; check REPLICATE_BASE_URL."
            ) from error
        except httpx.HTTPError as error:
            raise _Unwell(
                f"{self.base_url} does not answer ({reason(error)}); run the same command again later."
            ) from error

    def _translated(self, error: ReplicateError) -> CredentialRefused | InputRejected | ReplicateFailed:
        said = " ".join((error.detail or error.title or "no reason given").split()).rstrip(".")
        status = error.status or 0
        if status == 401:
            return CredentialRefused(f"{self.base_url} refuses the API token ({said}); set another: {TOKEN_COMMAND}")
        if status == 402:
            return ReplicateFailed(
                f"{self.base_url} wants payment first ({said}): https://replicate.com/account/billing"
            )
        if error.title == "Input validation failed":
            return InputRejected(f"{self.base_url} refuses the inputs: {said}.")
        if status >= 500 or status == 429:
            return _Unwell(f"{self.base_url} failed with {status} ({said}); run the same command again later.")
        return _Refused(f"{self.base_url} refused with {status}: {said}.", status)


class _Unwell(ReplicateFailed):
    """The network or the service failed; the same call may succeed later."""


class _Refused(ReplicateFailed):
    """The service understood and said no."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
