"""A batch of faces on a GPU, timed by its own events, beside the rate at which it multiplies large matrices.

    python scripts/bench_gpu.py WEIGHTS PRECISION

Writes as JSON: milliseconds of GFPGAN for 8 faces, and TFLOP/s of that ("restore") and of the matrices ("peak").
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from restoration import torch_networks

FACES: Final = 8
FLOP_PER_FACE: Final = 395.5e9  # of GFPGAN's convolutions at 512x512, multiply-adds counted twice
SIDE: Final = 8192
RUNS: Final = 10


def main() -> None:
    """Measure."""
    weights, precision = sys.argv[1:]
    chosen: Any = precision
    network = torch_networks.face_restorer(Path(weights) / "GFPGANv1.4.pth", "cuda", chosen)
    faces = torch.randint(0, 256, (FACES, 512, 512, 3), dtype=torch.uint8, device="cuda")
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    matrix = torch.randn(SIDE, SIDE, dtype=kind, device="cuda")
    with torch.inference_mode():
        restore_ms, product_ms = milliseconds(lambda: network.compute(faces)), milliseconds(lambda: matrix @ matrix)
    rates = {"restore": FACES * FLOP_PER_FACE / restore_ms / 1e9, "peak": 2 * SIDE**3 / product_ms / 1e9}
    print(json.dumps({"milliseconds": restore_ms, **rates}))


def milliseconds(work: Callable[[], object]) -> float:
    """Median time of the GPU alone, once it is warm."""
    times: list[float] = []
    for _ in range(RUNS + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch's
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[3:])


if __name__ == "__main__":
    main()
