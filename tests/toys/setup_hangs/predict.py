"""A model whose setup never ends."""

import time

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    """Never becomes ready."""

    def setup(self) -> None:
        """Sleep for an hour."""
        time.sleep(3600)

    def predict(self, img: str = Input(description="Unused.")) -> str:
        """Never called."""
        return img
