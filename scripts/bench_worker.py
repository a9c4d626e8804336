"""One implementation on one photo, in a process of its own; writes what it measured as JSON to standard output.

    python scripts/bench_worker.py reference|ours CASE lanczos|real-esrgan WEIGHTS [RUNS] [DEVICE] [PRECISION]

Seconds per stage are medians over the runs after the first, if there are any; cold_start is from the process's start to
the end of the first. Both detectors run, and both then get the faces that are known.
"""

from __future__ import annotations

import functools
import importlib
import json
import resource
import statistics
import sys
import time
import types
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

Stages = dict[str, float]
Call = Callable[[], Stages]


def main() -> None:
    """Measure."""
    import cv2

    who, case, background, weights, *rest = sys.argv[1:]
    runs, device, precision = (*rest, *("3", "auto", "auto")[len(rest) :])
    begin = time.time()
    from bench_inputs import CASES, compose  # type: ignore[import-not-found]  # beside this program

    photo, faces = compose(CASES[case])
    data = cv2.imencode(".png", photo[..., ::-1])[1].tobytes()
    composing = time.time() - begin
    prepare = _reference if who == "reference" else _ours
    call = prepare(data, faces, background, Path(weights), device, precision)
    first = _timed(call)
    cold = time.time() - composing - _process_start()
    others = [_timed(call) for _ in range(int(runs) - 1)] or [first]
    stages = {stage: statistics.median(run[stage] for run in others) for stage in first}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(stages | {"peak_memory": peak, "cold_start": cold}))


def _process_start() -> float:
    import psutil

    return psutil.Process().create_time()


def _timed(call: Call) -> Stages:
    start = time.perf_counter()
    stages = call()
    return stages | {"total": time.perf_counter() - start}


def _ours(data: bytes, faces: Any, background: str, weights: Path, device: Any, precision: Any) -> Call:  # noqa: ANN401
    from restoration import detection, restorer
    from restoration.settings import Settings

    found = [detection.Face(tuple(face[:4]), face[4], face[5:].reshape(5, 2)) for face in faces]
    chosen = replace(Settings.from_environment(), weights=weights, device=device, precision=precision)
    engine = restorer.Restorer(chosen)
    detect = engine._detect

    def detect_known(rgb: Any) -> list[detection.Face]:  # noqa: ANN401
        detect(rgb)
        return found

    engine._detect = detect_known
    options = restorer.Options(background=background, scale=2, output_format="png")
    return lambda: engine.restore(data, options).seconds


def _reference(data: bytes, faces: Any, background: str, weights: Path, device: Any, _: object) -> Call:  # noqa: ANN401
    import cv2
    import numpy as np

    engine, stages = _reference_engine(weights, device, background), defaultdict[str, float](float)
    helper = engine.face_helper

    def timed(owner: Any, name: str, stage: str, answer: Any = None) -> None:  # noqa: ANN401
        original = getattr(owner, name)

        def wrapper(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            start = time.perf_counter()
            result = original(*arguments, **options)
            stages[stage] += time.perf_counter() - start
            return result if answer is None else answer

        setattr(owner, name, wrapper)

    timed(helper.face_det, "detect_faces", "detect", faces)
    timed(helper, "align_warp_face", "align")
    timed(engine.gfpgan, "forward", "restore")
    timed(helper.face_parse, "forward", "parse")
    if background == "real-esrgan":
        timed(engine.bg_upsampler, "enhance", "background")
    timed(helper, "paste_faces_to_input_image", "paste")

    def call() -> Stages:
        stages.clear()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, _, restored = engine.enhance(image, paste_back=True)
        start = time.perf_counter()
        cv2.imencode(".png", restored)
        stages["encode"] = time.perf_counter() - start
        stages["paste"] -= stages["parse"]
        return dict(stages)

    if background == "lanczos":  # done in the middle of pasting: the same call, timed by itself
        _time_lanczos_inside_paste(stages)
    return call


def _time_lanczos_inside_paste(stages: defaultdict[str, float]) -> None:
    module = importlib.import_module("facexlib.utils.face_restoration_helper")
    cv2 = importlib.import_module("cv2")

    def resize(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        start = time.perf_counter()
        result = cv2.resize(*arguments, **options)
        if options.get("interpolation") == cv2.INTER_LANCZOS4:
            stages["background"] += time.perf_counter() - start
            stages["paste"] -= time.perf_counter() - start
        return result

    own = types.SimpleNamespace(**{name: getattr(cv2, name) for name in dir(cv2)})
    own.resize = resize
    vars(module)["cv2"] = own


def _reference_engine(weights: Path, device: str, background: str) -> Any:  # noqa: ANN401
    """GFPGANer as its own command line builds it, on files that are here, its noise from the checkpoint."""
    functional = importlib.import_module("torchvision.transforms.functional")
    shim = types.ModuleType("torchvision.transforms.functional_tensor")  # gone since torchvision 0.17
    vars(shim)["rgb_to_grayscale"] = functional.rgb_to_grayscale
    sys.modules[shim.__name__] = shim
    warnings.simplefilter("ignore")
    import facexlib.detection
    import facexlib.parsing
    import torch
    from gfpgan import GFPGANer

    for module in (facexlib.detection, facexlib.parsing):
        module.load_file_from_url = lambda url, **_: str(weights / Path(url).name)
    on = torch.device("cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu")
    upsampler = _reference_upsampler(weights, on) if background == "real-esrgan" else None
    engine = GFPGANer(str(weights / "GFPGANv1.4.pth"), upscale=2, bg_upsampler=upsampler, device=on)
    engine.gfpgan.forward = functools.partial(engine.gfpgan.forward, randomize_noise=False)
    return engine


def _reference_upsampler(weights: Path, on: Any) -> Any:  # noqa: ANN401
    from realesrgan import RealESRGANer
    from realesrgan.archs.srvgg_arch import SRVGGNetCompact

    network = SRVGGNetCompact(num_feat=64, num_conv=32, upscale=4, act_type="prelu")
    path = str(weights / "realesr-general-x4v3.pth")
    return RealESRGANer(4, path, model=network, half=on.type == "cuda", device=on)


if __name__ == "__main__":
    main()
