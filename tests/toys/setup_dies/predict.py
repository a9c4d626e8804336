"""A model whose worker dies in setup, as when memory runs out."""

import os
import signal

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    """Never becomes ready."""

    def setup(self) -> None:
        """Die."""
        os.kill(os.getpid(), signal.SIGKILL)

    def predict(self, img: str = Input(description="Unused.")) -> str:
        """Never called."""
        return img
