"""Two versions of the model side by side: what callers can tell from the schemas, and what the same input gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import cv2
import httpx
import numpy as np
from replicate.version import Version

from harness.answers import body_within, reason
from harness.errors import ModelServerError, PredictionFailed, ReplicateFailed, SmokeFailed, UsageError
from harness.inputs import typed_inputs
from harness.model_server.client import new_prediction_id
from harness.model_server.files import read_output
from harness.predicting import PREDICTION_TIMEOUT_S, started
from harness.release.account import Account
from harness.release.compat import compare
from harness.release.findings import Finding
from harness.release.similarity import Pixels, ssim

ALIKE_SSIM: Final = 0.98
"""From here on two images count as the same picture: other hardware and precision round differently, no more."""

REMOTE_S: Final = 900.0
"""How long a prediction may take on Replicate, a cold boot included."""

MAX_BYTES: Final = 200 << 20
"""Of one output file."""


@dataclass(frozen=True)
class Likeness:
    """Whether two outputs are alike, and how that was seen, in a few words."""

    alike: bool
    text: str


def schemas(live: Mapping[str, Any], new: Mapping[str, Any]) -> list[Finding]:
    """Say what callers of `live` would notice of `new`; empty when they can tell nothing."""
    return compare(live, new)


def remote_version(account: Account, reference: str) -> Version:
    """Return the version that "owner/name" (its newest) or "owner/name:version" means. Raises UsageError."""
    model, _, wanted = reference.partition(":")
    if model.count("/") != 1:
        raise UsageError(f"The remote version is OWNER/NAME or OWNER/NAME:VERSION, not {reference!r}.")
    if not wanted:
        found = account.model(model)
        wanted = found.latest_version.id if found and found.latest_version else ""
    version = account.version(model, wanted) if wanted else None
    if version is None:
        raise UsageError(f"{reference} does not exist, or this API token cannot see it.")
    return version


async def local_output(
    root: Path, inputs: Mapping[str, str], environment: Mapping[str, str] = MappingProxyType({})
) -> Any:  # noqa: ANN401 - a JSON value
    """Run the model of a folder once; files in the output are bytes. `inputs`: as typed, a file as `@path`.

    environment: more variables for it.

    Raises:
        HarnessError: it cannot be run, or the prediction failed.
    """
    async with started(root, environment) as server:
        given = typed_inputs(inputs, await server.schema())
        outcome = await server.run(new_prediction_id(), given, timeout_s=PREDICTION_TIMEOUT_S)
    if outcome.status != "succeeded":
        raise PredictionFailed(f"The model of {root} failed: {outcome.error or outcome.status}.")
    return with_content(outcome.output)


def remote_output(account: Account, version: str, schema: Mapping[str, Any], inputs: Mapping[str, str]) -> Any:  # noqa: ANN401 - a JSON value
    """Run a version on Replicate once, which costs money; as `local_output`. Raises SmokeFailed, ReplicateFailed."""
    files = {name: Path(text[1:]) for name, text in inputs.items() if text.startswith("@")}
    prediction = account.predict(version, typed_inputs(inputs, schema) | files, REMOTE_S)
    if prediction.status != "succeeded":
        raise SmokeFailed(f"Prediction {prediction.id} of {version[:12]} {prediction.status}: {prediction.error}.")
    return with_content(prediction.output)


def outputs(ours: Any, theirs: Any) -> Likeness:  # noqa: ANN401 - JSON values with bytes for files
    """Compare two outputs: images by size and SSIM, anything else for equality."""
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        each = [outputs(*pair) for pair in zip(ours, theirs, strict=True)]
        return Likeness(all(one.alike for one in each), "; ".join(one.text for one in each))
    if isinstance(ours, bytes) and isinstance(theirs, bytes) and ours != theirs:
        return _images(_decoded(ours), _decoded(theirs))
    return Likeness(True, "equal") if ours == theirs else Likeness(False, "different")


def _images(ours: Pixels | None, theirs: Pixels | None) -> Likeness:
    if ours is None or theirs is None:
        return Likeness(False, "different files, not both of them images")
    if ours.shape != theirs.shape:
        return Likeness(False, f"{_size(ours)} here, {_size(theirs)} there")
    similarity = ssim(ours, theirs)
    return Likeness(similarity >= ALIKE_SSIM, f"{_size(ours)}, SSIM {similarity:.4f} (alike from {ALIKE_SSIM})")


def _decoded(content: bytes) -> Pixels | None:
    """Return an image as uint8 BGR, alpha left out; None for anything else."""
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
        return None if image is None else np.asarray(image, np.uint8)
    except cv2.error:  # beyond OpenCV's limit of pixels
        return None


def _size(image: Pixels) -> str:
    return f"{image.shape[1]} x {image.shape[0]} pixels"


def with_content(output: Any) -> Any:  # noqa: ANN401 - a JSON value
    """Put the content of each file of an output in the place of its URL."""
    if isinstance(output, list):
        return [with_content(item) for item in output]
    if isinstance(output, str) and output.startswith("data:"):
        return read_output(output)[0]
    if isinstance(output, str) and output.startswith(("http://", "https://")):
        return _fetched(output)
    return output


def _fetched(url: str) -> bytes:
    """Fetch an output, without credentials: knowing the URL is enough."""
    try:
        with httpx.stream("GET", url, timeout=60, trust_env=url.startswith("https:")) as answer:
            answer.raise_for_status()
            content = body_within(answer, MAX_BYTES)
    except httpx.HTTPError as error:
        raise ReplicateFailed(f"An output cannot be fetched ({reason(error)}); run the same command again.") from error
    if content is None:
        raise ModelServerError(f"An output exceeds {MAX_BYTES:,} bytes.")
    return content
