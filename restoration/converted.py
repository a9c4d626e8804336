"""Checkpoint file -> OpenVINO model, converted once and kept on the disk.

A kept model is a directory of its own, named for everything that it depends on and renamed into place when complete:
no process ever sees half of one, and what is out of date is never looked at. All of it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import openvino

from restoration.errors import WeightsError
from restoration.networks import Precision
from restoration.weights import Weights

log = logging.getLogger(__name__)

DIRECTORY = ".converted"
_RECIPE = 1  # raise it with every change of `conversion` or of the networks that changes what comes out


def converted(path: Path, kind: str, precision: Precision, cache: Path | None) -> openvino.Model:
    """Read the model of the checkpoint at `path`, or convert it and keep it for the next time.

    Kept in `cache`; if None, beside the checkpoint, or in the user's cache directory where that cannot be written.
    Where nothing can be written it serves this process alone. Raises `WeightsCorrupt`, `OutOfMemory`, and `OSError`
    where the checkpoint cannot be read.
    """
    name = f"{path.stem}-{_key(path, kind, precision)}"
    places = [cache] if cache else [path.parent / DIRECTORY, _user_cache()]
    for place in places:
        if model := _kept(place / name):
            log.info("%s: converted before, in %s", path.name, place)
            return model
    from restoration.conversion import convert

    log.info("%s: converting for the CPU", path.name)
    return _keep(convert(path, kind), places, name, precision)


def fact(model: openvino.Model, name: str) -> int:
    """What `conversion.convert` wrote down about a model."""
    return int(model.get_rt_info(["restoration", name]).astype(str))


def _key(path: Path, kind: str, precision: Precision) -> str:
    facts = [_sha256(path), kind, precision, _RECIPE, openvino.get_version()]
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


def _kept(directory: Path) -> openvino.Model | None:
    if not directory.is_dir():
        return None
    try:
        return _read(directory)
    except RuntimeError:
        log.warning("%s is damaged and will be made again", directory)
        shutil.rmtree(directory, ignore_errors=True)
        return None


def _keep(model: openvino.Model, places: list[Path], name: str, precision: Precision) -> openvino.Model:
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place, prefix=f".{name}.") as scratch:
                kept = _written(model, Path(scratch) / name, precision)
                _rename(Path(scratch) / name, place / name)
                return kept
        except (OSError, RuntimeError) as error:  # OpenVINO knows no other error, for a full disk either
            log.warning("converted models cannot be kept in %s (%s)", place, error)
    with tempfile.TemporaryDirectory() as scratch:
        return _written(model, Path(scratch) / name, precision)  # its weights stay mapped without the file


def _written(model: openvino.Model, directory: Path, precision: Precision) -> openvino.Model:
    """Write the model and read it back: every process then works with the same weights, also the one that converts."""
    directory.mkdir(mode=0o755)
    # fp16 has more digits than bf16; weights beyond its range stay fp32.
    half = precision == "bf16" and fact(model, "bf16") == 1
    openvino.save_model(model, directory / "model.xml", compress_to_fp16=half)
    for file in directory.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())  # else a power cut could leave zeros behind a complete name
    return _read(directory)


def _rename(made: Path, target: Path) -> None:
    try:
        made.replace(target)
    except OSError:
        if not target.is_dir():
            raise
        # Another process was faster, with the same content.


def _read(directory: Path) -> openvino.Model:
    return openvino.Core().read_model(directory / "model.xml")
