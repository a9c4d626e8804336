"""The pipeline, readable from top to bottom: decode, detect, align, restore, enlarge, parse, paste, encode."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np

from restoration import alignment, background, cores, detection, images, networks
from restoration.detection import Face
from restoration.errors import InvalidInput, OutOfMemory
from restoration.images import Photo, Pixels, Size
from restoration.settings import Settings
from restoration.versions import FILES, Versions
from restoration.weights import Weights

log = logging.getLogger(__name__)

_LEAST_EYE_DISTANCE = 5  # pixels; below it there is no face to restore, as in the reference


_CHOICES = {
    "version": tuple(FILES),
    "faces": ("all", "largest", "center"),
    "background": ("real-esrgan", "lanczos"),
    "output_format": ("png", "jpg", "webp"),
}
_BOUNDS = {"scale": (0.1, 10), "strength": (0, 1), "output_quality": (1, 100)}


@dataclass(frozen=True)
class Options:
    """What a caller asks for; see the inputs of `predict.py`, which are these."""

    version: str = "v1.4"
    scale: float = 2.0
    strength: float = 1.0
    faces: str = "all"
    background: str = "real-esrgan"
    output_format: str = "png"
    output_quality: int = 95

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InvalidInput(f"{name} is {getattr(self, name)!r}; use one of {', '.join(allowed)}.")
        for name, (least, most) in _BOUNDS.items():
            if not least <= getattr(self, name) <= most:
                raise InvalidInput(f"{name} is {getattr(self, name)}; give a number from {least} to {most}.")


@dataclass(frozen=True, eq=False)
class FaceOutcome:
    """What became of one detected face."""

    face: Face
    restored: bool
    reason: str
    """Why it was not restored; empty if it was."""


@dataclass(frozen=True, eq=False)
class Restored:
    """A finished photo and how it came about."""

    data: bytes
    """The file, in the asked-for format."""
    size: Size
    faces: list[FaceOutcome]
    seconds: dict[str, float]
    """Per stage, in the order they ran."""


@dataclass(frozen=True)
class _Plan:
    """How much goes through a network at once. The result does not depend on it."""

    faces: int
    tiles: int
    tile: int


_PLANS = {
    # A CPU's networks take one image of a batch after the other, and give their memory back after the last.
    "cpu": (_Plan(faces=8, tiles=1, tile=1088), _Plan(faces=1, tiles=1, tile=128)),
    "cuda": (_Plan(faces=8, tiles=4, tile=512), _Plan(faces=1, tiles=1, tile=256)),
}


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 6)
        log.info("%s: %.2f s", name, self.seconds[name])


class Restorer:
    """Loaded once, called for every photo; a call that fails leaves nothing behind for the next."""

    def __init__(self, settings: Settings) -> None:
        """Load what the default options need.

        Raises `WeightsError` or `DeviceUnavailable` within seconds where something is missing.
        """
        self.settings = settings
        cores.start()
        self.device = networks.resolve_device(settings.device)
        self.precision = networks.resolve_precision(settings.precision, self.device)
        weights, where = Weights(settings.weights), (self.device, self.precision, settings.cache)
        self._versions = Versions(
            weights, lambda path: networks.load_face_restorer(path, *where), settings.max_network_bytes
        )
        self._versions.get(Options.version)
        self._parser = networks.load_face_parser(weights.path("parsing_parsenet.pth"), *where)
        self._upscaler = networks.load_upscaler(weights.path("realesr-general-x4v3.pth"), *where)
        self._detect = self._detector(weights)
        log.info("networks on %s in %s, faces by %s", self.device, self.precision, settings.detector)

    def restore(self, data: bytes, options: Options) -> Restored:
        """Restore the photo in `data`. Raises `InputError`, `WeightsError`, or `OutOfMemory` after one leaner try."""
        first, leaner = _PLANS[self.device]
        try:
            return self._run(data, options, first)
        except OutOfMemory as error:
            log.warning("%s Trying once more with smaller batches and tiles.", error)
        return self._run(data, options, leaner)

    def _run(self, data: bytes, options: Options, plan: _Plan) -> Restored:
        clock = _Clock()
        with _memory_errors_translated():
            with clock.stage("decode"):
                photo = images.decode(data, self.settings)
                size = images.output_size(photo.size, options.scale, options.output_format, self.settings)
                _log_photo(photo, size)
            with clock.stage("detect"):
                found = self._detect(photo.rgb)
            with clock.stage("align"):
                outcomes, chosen = _choose(found, options, photo.size)
                crops = [alignment.crop(photo.rgb, matrix) for matrix in chosen]
            with clock.stage("restore"):
                restored = _in_batches(self._versions.get(options.version), crops, plan.faces)
            with clock.stage("background"):
                canvas = self._background(photo, size, options, plan)
            with clock.stage("parse"):
                side = self.settings.parser_side
                seen = [alignment.shrunk(face, side) for face in restored]
                labels = _in_batches(self._parser, seen, plan.faces)
            with clock.stage("paste"):
                scale = size[0] / photo.size[0], size[1] / photo.size[1]
                masks = cores.each(alignment.soft_mask, labels)
                for matrix, face, mask in zip(chosen, restored, masks, strict=True):
                    shown = mask * np.float32(options.strength)
                    alignment.paste(canvas, face, shown, alignment.enlarged(matrix, scale))
            with clock.stage("encode"):
                encoded, notes = images.encode(canvas, photo, options.output_format, options.output_quality)
        for note in notes:
            log.info("output: %s", note)
        return Restored(encoded, size, outcomes, clock.seconds)

    def _background(self, photo: Photo, size: Size, options: Options, plan: _Plan) -> Pixels:
        if options.background == "lanczos":
            return images.resize(photo.rgb, size)
        return background.upscale(photo.rgb, size, self._upscaler, tile=plan.tile, batch=plan.tiles)

    def _detector(self, weights: Weights) -> detection.Detector:
        name = self.settings.detector
        if name == "recorded":
            return detection.recorded(self.settings.weights / detection.RECORDED)
        file = {"resnet50": "detection_Resnet50_Final.pth", "mobilenet0.25": "detection_mobilenet0.25_Final.pth"}[name]
        network = networks.load_face_detector(
            weights.path(file), name, self.device, self.precision, self.settings.cache
        )
        return detection.retinaface(network)


def _choose(found: list[Face], options: Options, size: Size) -> tuple[list[FaceOutcome], list[alignment.Affine]]:
    """Decide for each face whether it will be restored, and where its crop lies."""
    wanted = detection.choose(found, options.faces, size)
    outcomes, matrices = [], []
    for face in found:
        matrix = alignment.alignment(face.landmarks)
        reason = ""
        if face not in wanted:
            reason = f"not the {options.faces} face"
        elif face.eye_distance < _LEAST_EYE_DISTANCE:
            reason = f"too small: eyes less than {_LEAST_EYE_DISTANCE} pixels apart"
        elif matrix is None:
            reason = "landmarks are not those of a face"
        else:
            matrices.append(matrix)
        outcomes.append(FaceOutcome(face, not reason, reason))
        _log_face(outcomes[-1])
    return outcomes, matrices


def _in_batches(network: Callable[[Pixels], Pixels], items: list[Pixels], size: int) -> list[Pixels]:
    results: list[Pixels] = []
    for start in range(0, len(items), size):
        results.extend(network(np.stack(items[start : start + size])))
    return results


@contextmanager
def _memory_errors_translated() -> Iterator[None]:
    """Networks raise `OutOfMemory` by themselves; numpy, Pillow and OpenCV have their own words for it."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory("The machine ran out of memory for the pixels; send a smaller photo or scale.") from error
    except cv2.error as error:
        if error.code != cv2.Error.StsNoMem:
            raise
        raise OutOfMemory("OpenCV ran out of memory for the pixels; send a smaller photo or scale.") from error


def _log_photo(photo: Photo, size: Size) -> None:
    log.info("photo: %dx%d, output %dx%d", *photo.size, *size)
    for note in photo.notes:
        log.info("photo: %s", note)


def _log_face(outcome: FaceOutcome) -> None:
    face = outcome.face
    log.info(
        "face: box %d,%d,%d,%d, score %.3f, %dx%d pixels, %s",
        *(round(edge) for edge in face.box),
        face.score,
        round(face.width),
        round(face.height),
        outcome.reason or "restored",
    )
