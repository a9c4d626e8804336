"""Checkpoint file -> network compiled for this processor, made once and kept on the disk.

Converting takes seconds and torch, compiling a second: what is kept needs neither. It is a directory of its own, named
for everything that it depends on and renamed into place when complete: no process ever sees half of one, and what is
out of date is never looked at. All of it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import openvino

from restoration.errors import WeightsError
from restoration.networks import Precision
from restoration.weights import Weights

log = logging.getLogger(__name__)

DIRECTORY: Final = ".converted"
_RECIPE = 5  # raise it with every change of `conversion`, the networks or this module that changes what comes out
_NETWORK, _FACTS = "network.blob", "facts.json"


Facts = Mapping[str, int]
"""What a caller cannot see: "scale"; "multiple", of which height and width must be one; "bf16", whether it runs in it;
"nbytes" of its parameters."""


class Converted(NamedTuple):
    """A network in memory, which takes one image: (1, H, W, 3) uint8 RGB.

    content: its file, mapped. The network reads from it without owning it, so it comes first: what a tuple drops last.
    """

    content: openvino.Tensor
    network: openvino.CompiledModel
    facts: Facts


def converted(path: Path, kind: str, precision: Precision, cache: Path | None) -> Converted:
    """Find the network of the checkpoint at `path`, or convert it and keep it for the next time.

    Kept in `cache`; if None, beside the checkpoint, or in the user's cache directory where that cannot be written.
    Where nothing can be written it serves this process alone. Raises `WeightsCorrupt`, `OutOfMemory`, `OSError` where
    the checkpoint cannot be read, and RuntimeError, which is OpenVINO's for everything, where memory runs out.
    """
    name = f"{path.stem}-{_key(path, kind, precision)}"
    places = [cache] if cache else [path.parent / DIRECTORY, _user_cache()]
    for place in places:
        if kept := _kept(place / name):
            log.info("%s: converted before, in %s", path.name, place)
            return kept
    from restoration.conversion import convert

    log.info("%s: converting for the CPU", path.name)
    model, facts = convert(path, kind)
    return _keep(model, {**facts, "bf16": int(facts["bf16"] and precision == "bf16")}, places, name)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is an allocator's: OpenVINO wraps all that happens inside it in RuntimeError."""
    phrases = ("Failed to allocate", "bad_alloc", "bad allocation", "could not create a memory", "out of memory")
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in phrases)


def _key(path: Path, kind: str, precision: Precision) -> str:
    processor = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    facts = [_sha256(path), kind, precision, _RECIPE, openvino.get_version(), processor]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _sha256(path: Path) -> str:
    """Of the content. A manifest beside the file tells it: `Weights.path`, where such paths come from, verified it."""
    try:
        return Weights(path.parent).file(path.name).sha256
    except WeightsError:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "restoration"


def _kept(directory: Path) -> Converted | None:
    if not directory.is_dir():
        return None
    try:
        return _load(directory)
    except (OSError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        log.warning("%s cannot be used and will be made again (%s)", directory, error)
        shutil.rmtree(directory, ignore_errors=True)
        return None


def _keep(model: openvino.Model, facts: Facts, places: list[Path], name: str) -> Converted:
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place, prefix=f".{name}.") as scratch:
                made = Path(scratch) / name
                _compile(model, facts, made)
                _rename(made, place / name)
            return _load(place / name)
        except (OSError, RuntimeError) as error:  # OpenVINO knows no other error, for a full disk either
            log.warning("converted models cannot be kept in %s (%s)", place, error)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        _compile(model, facts, Path(scratch) / name)
        return _load(Path(scratch) / name)  # stays mapped without the file


def _compile(model: openvino.Model, facts: Facts, directory: Path) -> None:
    """Write what `_load` reads, which so are the same weights in every process, also the one that converts."""
    directory.mkdir(mode=0o755)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        path = Path(scratch) / "model.xml"
        # fp16 has more digits than bf16, in half the bytes; weights beyond its range stay fp32.
        openvino.save_model(model, path, compress_to_fp16=bool(facts["bf16"]))
        compiled = openvino.Core().compile_model(path, "CPU", _options(facts))
        nbytes = sum(op.get_byte_size() for op in openvino.Core().read_model(path).get_ops() if _is_constant(op))
    _write(directory / _NETWORK, compiled.export_model().getbuffer())
    _write(directory / _FACTS, json.dumps({**facts, "nbytes": nbytes}).encode())


def _load(directory: Path) -> Converted:
    facts = json.loads((directory / _FACTS).read_bytes())
    # Mapped, not read, which takes a third of the time; OpenVINO insists that it could be written.
    mapped = np.memmap(directory / _NETWORK, np.uint8, mode="c")
    content = openvino.Tensor(mapped, shared_memory=True)
    return Converted(content, openvino.Core().import_model(content, "CPU", _options(facts)), facts)


def _options(facts: Facts) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if facts["bf16"] else "f32",
        "PERFORMANCE_HINT": "LATENCY",  # all cores on one image
        "ENABLE_CPU_PINNING": False,  # pinned to the same cores, two servers would slow each other
    }


def _is_constant(op: Any) -> bool:  # noqa: ANN401 # OpenVINO's node
    return bool(op.get_type_name() == "Constant")


def _write(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())  # else a power cut could leave zeros behind a complete name


def _rename(made: Path, target: Path) -> None:
    try:
        made.replace(target)
    except OSError:
        if not target.is_dir():
            raise
        # Another process was faster, with the same content.
