"""A model that turns a picture grey: everything that the gate looks at, and nothing else."""

import tempfile
from pathlib import Path as FilePath

from cog import BasePredictor, Input, Path
from PIL import Image


class Predictor(BasePredictor):
    """Grey pictures."""

    def setup(self) -> None:
        """Make a place for outputs."""
        self.place = FilePath(tempfile.mkdtemp())

    def predict(
        self,
        img: Path = Input(description="The picture."),
        scale: float = Input(description="Size of the output.", default=2, ge=1, le=4),
        tone: str = Input(description="Which grey.", default="light", choices=["light", "dark", "middle"]),
    ) -> Path:
        """Turn a picture grey."""
        if not isinstance(img, Path):
            raise ValueError("img is not an uploaded file; send a URL.")
        try:
            picture = Image.open(str(img), formats=["PNG", "JPEG"]).convert("L")
        except Exception:
            raise ValueError("[NOT_A_PICTURE] img is no picture; send a PNG or JPEG.") from None
        size = round(picture.width * scale), round(picture.height * scale)
        factor = 1.0 if tone == "light" else 0.5
        output = self.place / "grey.png"
        picture.resize(size).point(lambda value: value * factor).save(output)
        return Path(output)
