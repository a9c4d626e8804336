"""A model with GFPGAN's inputs that enlarges the photo without any network, step by step as it is told."""

import tempfile
import time
from pathlib import Path as FilePath

from cog import BasePredictor, Input, Path
from PIL import Image


class Predictor(BasePredictor):
    """Takes `seconds` and one more for each megapixel, in steps of 0.05 s, and prints each."""

    def setup(self) -> None:
        """Make one work directory for all predictions."""
        self.work = FilePath(tempfile.mkdtemp())

    def predict(
        self,
        img: Path = Input(description="The photo."),
        version: str = Input(description="Unused.", default="v1.4", choices=["v1.2", "v1.3", "v1.4", "RestoreFormer"]),
        scale: float = Input(description="Output size over input size.", default=2, ge=0.1, le=10),
        seconds: float = Input(description="How long to take.", default=0, ge=0, le=60),
    ) -> Path:
        """Enlarge the photo."""
        with Image.open(img) as photo:
            self.take(seconds + photo.width * photo.height / 1e6, version)
            size = (round(photo.width * scale), round(photo.height * scale))
            photo.resize(size).save(self.work / "out.png")
        return Path(self.work / "out.png")

    def take(self, seconds: float, version: str) -> None:
        """Be busy as a network would be."""
        steps = round(20 * seconds)
        for step in range(steps):
            print(f"step {step + 1}/{steps} {version}", flush=True)
            time.sleep(0.05)
