"""Compare the engine with the reference implementation: the same photos, faces and random checkpoints, in turn.

Each implementation runs in a process of its own, the reference as it installs. Prints a table; writes
bench/cpu.json or bench/gpu.json (rows of case, background, stage, reference, ours, ratio = reference / ours, unit),
beside it a plot, and where and when it ran; README.md shows the last one after `python scripts/readme.py --write`.
With --server it measures a running model server instead: predictions a second at 1, 2 and 4 clients.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import cv2
from bench_inputs import CASES, compose, write_random_weights  # type: ignore[import-not-found]  # beside this program

from restoration.networks import resolve_device, resolve_precision

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("detect", "align", "restore", "parse", "background", "paste", "encode", "total", "peak_memory", "cold_start")
RUNS = {"one-face-512": 3, "five-faces-1080p": 1, "twenty-faces-12mp": 1}
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}
Row = dict[str, Any]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="only this case; may be given more than once")
    parser.add_argument("--background", choices=("lanczos", "real-esrgan"), action="append")
    parser.add_argument("--large", action="store_true", help="12 megapixels with real-esrgan too: 10 GB, many minutes")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument(
        "--tuned", action="store_true", help="keep the reference's allocator from giving memory back: faster, larger"
    )
    parser.add_argument("--weights", type=Path, default=ROOT / "build" / "bench", help="made there if missing")
    parser.add_argument("--output", type=Path, default=ROOT / "bench")
    parser.add_argument("--server", metavar="URL", help="measure this model server")
    given = parser.parse_args()
    if given.server:
        asyncio.run(measure_server(given.server))
        return
    write_random_weights(given.weights)
    worker("ours", "one-face-512", "real-esrgan", given, runs=1)  # converts the networks: once for a machine
    rows = [row for case, background in chosen(given) for row in compare(case, background, given)]
    if on_gpu(given):
        rows += gpu_rows(given)
    name = "gpu" if on_gpu(given) else "cpu"
    name += "-tuned" if given.tuned else ""
    given.output.mkdir(exist_ok=True)
    (given.output / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    allocator = ", the reference with a tuned allocator" if given.tuned else ""
    where = f"{machine(given)}{allocator}, {time.strftime('%Y-%m-%d')}"
    (given.output / f"{name}.txt").write_text(where + "\n")
    plot(rows, given.output / f"{name}.png", where)


def chosen(given: argparse.Namespace) -> list[tuple[str, str]]:
    """Cases with backgrounds, cheap ones first."""
    backgrounds = given.background or ("lanczos", "real-esrgan")
    pairs = [(case, background) for background in backgrounds for case in given.case or CASES]
    heavy = ("twenty-faces-12mp", "real-esrgan")
    return [pair for pair in pairs if pair != heavy or given.large or on_gpu(given)]


def on_gpu(given: argparse.Namespace) -> bool:
    """Whether it is a GPU that is measured."""
    return resolve_device(given.device) == "cuda"


def machine(given: argparse.Namespace) -> str:
    """Name what is measured, and the precision of ours."""
    precision = resolve_precision(given.precision, resolve_device(given.device))
    if on_gpu(given):
        import torch

        return f"{torch.cuda.get_device_name()}, {precision}"
    import openvino

    processor = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    return f"{processor}, {len(os.sched_getaffinity(0))} cores, {precision}"


def compare(case: str, background: str, given: argparse.Namespace) -> list[Row]:
    """Run both and print their rows as soon as they are known."""
    ours, reference = (worker(who, case, background, given, RUNS[case]) for who in ("ours", "reference"))
    rows = [row(case, background, stage, reference, ours) for stage in STAGES if {stage} <= reference.keys()]
    for each in rows:
        print(
            "{case:18} {background:12} {stage:12} {reference:10.3f} {ours:10.3f} {unit:3} {ratio:8.1f}".format(**each)
        )
    return rows


def row(case: str, background: str, stage: str, reference: dict[str, float], ours: dict[str, float]) -> Row:
    """One line of the JSON."""
    unit = "MiB" if stage == "peak_memory" else "s"
    theirs, mine = round(reference[stage], 5), round(ours[stage], 5)
    return {
        "case": case, "background": background, "stage": stage,
        "reference": theirs, "ours": mine, "ratio": round(theirs / max(mine, 1e-5), 2), "unit": unit,
    }  # fmt: skip


def gpu_rows(given: argparse.Namespace) -> list[Row]:
    """GFPGAN on a batch of 8: the GPU's own time, and its rate (ours) beside that of large matrices (reference)."""
    precision = resolve_precision(given.precision, "cuda")
    command = [sys.executable, str(ROOT / "scripts" / "bench_gpu.py"), str(given.weights), precision]
    measured = run(command, os.environ | {"PYTHONPATH": str(ROOT)})
    print("GFPGAN, 8 faces: {milliseconds:.2f} ms, {restore:.0f} of {peak:.0f} TFLOP/s".format(**measured))
    peak, ours = round(measured["peak"], 1), round(measured["restore"], 1)
    return [{
        "case": "batch-of-8", "background": "none", "stage": "restore",
        "reference": peak, "ours": ours, "ratio": round(peak / ours, 2), "unit": "TFLOP/s",
    }]  # fmt: skip


def worker(who: str, case: str, background: str, given: argparse.Namespace, runs: int) -> dict[str, float]:
    """Measure one implementation in a process of its own."""
    arguments = (who, case, background, given.weights, runs, given.device, given.precision)
    command = [sys.executable, str(ROOT / "scripts" / "bench_worker.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (TUNED if given.tuned and who == "reference" else {})
    return run(command, environment)


def run(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a program that ends with a line of JSON."""
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def plot(rows: list[Row], path: Path, where: str) -> None:
    """Draw how many times faster, or smaller, than the reference every stage is."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    labels = list(dict.fromkeys(f"{row['case']}, {row['background']}" for row in rows))
    figure, axes = pyplot.subplots(figsize=(10, 5))
    for index, label in enumerate(labels):
        mine = [row for row in rows if f"{row['case']}, {row['background']}" == label]
        places = [STAGES.index(row["stage"]) + (index - len(labels) / 2) * 0.8 / len(labels) for row in mine]
        axes.bar(places, [row["ratio"] for row in mine], 0.8 / len(labels), label=label, align="edge")
    axes.set(yscale="log", ylabel="reference / ours", xticks=range(len(STAGES)), xticklabels=STAGES)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_title(f"How many times faster, or smaller, than the reference: {where}")
    axes.legend(fontsize="small")
    figure.autofmt_xdate()
    figure.savefig(path, dpi=120, bbox_inches="tight")


async def measure_server(url: str, seconds: float = 20) -> None:
    """Print predictions a second at 1, 2 and 4 clients, each sending one 512x512 face after the other."""
    from harness.errors import Busy
    from harness.model_server.client import ModelServer

    photo = cv2.imencode(".png", compose(CASES["one-face-512"])[0][..., ::-1])[1].tobytes()
    inputs = {"img": "data:image/png;base64," + base64.b64encode(photo).decode(), "background": "lanczos"}
    async with ModelServer(url) as server:

        async def client(until: float) -> int:
            count = 0
            while time.monotonic() < until:
                try:
                    outcome = await server.run(uuid.uuid4().hex, inputs, timeout_s=600)
                except Busy:  # with another client's prediction: a server runs one at a time
                    await asyncio.sleep(0.02)
                    continue
                if outcome.status != "succeeded":
                    sys.exit(f"A prediction {outcome.status}: {outcome.error}")
                count += 1
            return count

        await client(time.monotonic() + 0.001)  # one prediction, to warm up
        for clients in (1, 2, 4):
            start = time.monotonic()
            counts = await asyncio.gather(*(client(start + seconds) for _ in range(clients)))
            rate = sum(counts) / (time.monotonic() - start)
            print(f"{clients} clients: {rate:.2f} predictions/s")


if __name__ == "__main__":
    main()
