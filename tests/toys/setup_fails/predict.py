"""A model whose weights are not there."""

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    """Never becomes ready."""

    def setup(self) -> None:
        """Fail."""
        raise RuntimeError("weights missing: toy.pth")

    def predict(self, img: str = Input(description="Unused.")) -> str:
        """Never called."""
        return img
