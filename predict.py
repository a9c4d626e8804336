"""Cog's predictor: typed inputs in, one file out. Everything else is in `restoration`."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import traceback
import uuid
from pathlib import Path

from cog import BasePredictor, Input
from cog import Path as CogPath

from restoration.errors import InvalidInput
from restoration.restorer import Options, Restored, Restorer
from restoration.settings import Settings


class Predictor(BasePredictor):  # type: ignore[misc]  # Cog ships no types
    """Restore the faces in a photo and enlarge the rest."""

    def setup(self) -> None:
        """Load the networks onto the device; fails within seconds if a weights file is missing or corrupt."""
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
        self.scratch = Path(tempfile.mkdtemp(prefix="restored-"))
        self.restorer = Restorer(Settings.from_environment())

    # Bounds and choices stand here as literals: Cog's static parser drops named constants without a word.
    def predict(
        self,
        img: CogPath = Input(description="Photo with faces: JPEG, PNG, WebP, TIFF, BMP, HEIC or AVIF."),
        version: str = Input(
            description="Face restoration network: GFPGAN v1.2, v1.3 or v1.4, or RestoreFormer.",
            default="v1.4",
            choices=["v1.2", "v1.3", "v1.4", "RestoreFormer"],
        ),
        scale: float = Input(
            description="Size of the output as a multiple of the input: each side is round(input x scale).",
            default=2,
            ge=0.1,
            le=10,
        ),
        strength: float = Input(
            description="How much of each restored face is blended over the original one: 0 nothing, 1 all.",
            default=1,
            ge=0,
            le=1,
        ),
        faces: str = Input(
            description="Which faces to restore: all, the largest, or the one nearest the center.",
            default="all",
            choices=["all", "largest", "center"],
        ),
        background: str = Input(
            description="How the rest of the photo is enlarged: real-esrgan (a network) or lanczos (plain, fast).",
            default="real-esrgan",
            choices=["real-esrgan", "lanczos"],
        ),
        output_format: str = Input(
            description="File format of the output.", default="png", choices=["png", "jpg", "webp"]
        ),
        output_quality: int = Input(description="Quality of the output, for jpg and webp.", default=95, ge=1, le=100),
    ) -> CogPath:
        """Restore the faces in a photo and enlarge the rest."""
        try:
            options = Options(
                version, float(scale), float(strength), faces, background, output_format, int(output_quality)
            )  # fmt: skip
            restored = self.restorer.restore(_read(img), options)
        except Exception:
            traceback.print_exc()  # the answer carries one sentence; the log tells the rest
            raise
        self._record(restored)
        return CogPath(self._write(restored.data, output_format))

    def _record(self, restored: Restored) -> None:
        self.record_metric("faces_found", len(restored.faces))
        self.record_metric("faces_restored", sum(outcome.restored for outcome in restored.faces))
        self.record_metric("width", restored.size[0])
        self.record_metric("height", restored.size[1])
        self.record_metric("device", self.restorer.device)
        self.record_metric("precision", self.restorer.precision)
        for stage, seconds in restored.seconds.items():
            self.record_metric(f"seconds.{stage}", seconds)

    def _write(self, data: bytes, suffix: str) -> Path:
        """Write into the scratch directory, emptied first: Cog never deletes outputs. Upload targets see the name."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(mode=0o700)
        path = self.scratch / f"restored-{uuid.uuid4().hex}.{suffix}"
        path.write_bytes(data)
        return path


def _read(img: object) -> bytes:
    """Read the file that Cog downloaded. Cog passes path strings and file: URLs through as text: never open those."""
    if not isinstance(img, CogPath):
        raise InvalidInput("img is not an uploaded file; send an http(s) URL or a data URL.")
    return Path(img).read_bytes()
