"""A model that needs no input: a request with an empty input starts a run."""

import os
import time
from pathlib import Path

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    """Counts its runs in $TOY_MARKS."""

    def predict(self, seconds: float = Input(description="How long to take.", default=0)) -> str:
        """Sleep."""
        print("running")
        with (Path(os.environ["TOY_MARKS"]) / "runs").open("a") as file:
            file.write("x")
        time.sleep(seconds)
        return "done"
