"""What a version costs: setup, a prediction, memory; and whether that is more than the last release's.

Machines differ, so seconds are recorded as multiples of a yardstick: a fixed computation, timed in the same run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import cv2
import numpy as np

from harness.errors import PredictionFailed
from harness.model_server.client import ModelServer, new_prediction_id
from harness.model_server.runtime import Runtime
from harness.release.findings import Finding

TOLERANCE: Final[Mapping[str, float]] = {"setup": 1.5, "predict": 1.5, "peak_bytes": 1.2}
"""How many times the last release's figure is still all right; times vary between runs, memory hardly does."""

_RUNS: Final = 3
_NAMES: Final = {"setup": "setup time", "predict": "prediction time", "peak_bytes": "peak memory"}


@dataclass(frozen=True)
class Figures:
    """Measured in one run. setup, predict: in yardsticks; peak_bytes: resident, all processes of the server.

    conditions: what they are comparable under, such as the device and the kind of weights.
    """

    setup: float
    predict: float
    peak_bytes: int
    conditions: str

    def as_dict(self) -> dict[str, Any]:
        """As releases.toml records them."""
        return asdict(self)


def yardstick_s() -> float:
    """Time the yardstick, in seconds: a second's fraction of what a network does, on all cores."""
    values = np.random.default_rng(0).random((768, 768), dtype=np.float32)
    return min(_time(lambda: cv2.GaussianBlur(values @ values, (31, 31), 5)) for _ in range(_RUNS))


async def measure(
    server: ModelServer, runtime: Runtime, inputs: Mapping[str, Any], setup_s: float, conditions: str
) -> Figures:
    """Run a prediction a few times and collect the figures of the server, which `runtime` runs.

    `conditions` grows by what the model itself tells of them, in the metrics "device" and "precision".

    Raises PredictionFailed when the prediction fails, HarnessError when the server does not answer.
    """
    times, (*_, metrics) = zip(*[await _timed(server, inputs) for _ in range(_RUNS)], strict=True)
    yardstick = yardstick_s()
    seconds = statistics.median(times)
    peak_bytes = await runtime.peak_bytes()
    told = (f", {name} {metrics[name]}" for name in ("device", "precision") if name in metrics)
    conditions += "".join(told)
    return Figures(round(setup_s / yardstick, 2), round(seconds / yardstick, 2), peak_bytes, conditions)


def compare(new: Figures, recorded: Mapping[str, Any], file: str = "releases.toml") -> Iterator[Finding]:
    """Say which figures are beyond the tolerance, or that they cannot be compared."""
    if recorded.get("conditions") != new.conditions:
        message = (
            f"The last release was measured under other conditions: {recorded.get('conditions')}, now {new.conditions}."
        )
        yield Finding("BUDGET_NOT_COMPARED", "warning", file, message, "Run the gate as the release's was run.")
        return
    for name, tolerance in TOLERANCE.items():
        ratio = getattr(new, name) / recorded[name]
        if ratio > tolerance:
            message = f"The {_NAMES[name]} is {ratio:.2f} times the last release's; up to {tolerance} is tolerated."
            yield Finding(f"BUDGET_{name.upper()}", "error", file, message, "Find what became slower or larger.")


async def _timed(server: ModelServer, inputs: Mapping[str, Any]) -> tuple[float, Mapping[str, Any]]:
    """Run a prediction: its seconds and metrics."""
    began = time.perf_counter()
    outcome = await server.run(new_prediction_id(), inputs)
    if outcome.status != "succeeded":
        raise PredictionFailed(f"The prediction that the budget measures was {outcome.status}: {outcome.error}")
    return time.perf_counter() - began, outcome.metrics


def _time(work: Any) -> float:  # noqa: ANN401 - any callable
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
