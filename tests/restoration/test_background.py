"""Tiles must not show, whatever their size, the photo's, and the scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from restoration.background import upscale
from restoration.images import Pixels, resize
from restoration.networks import Part


class Repeat:
    """Repeats pixels, as the stand-in for Real-ESRGAN does; remembers the shapes it was given."""

    nbytes = 0
    scale = 4

    def __init__(self) -> None:
        self.shapes: set[tuple[int, ...]] = set()

    def __call__(self, batch: Pixels) -> Pixels:
        self.shapes.add(batch.shape)
        return batch.repeat(self.scale, axis=1).repeat(self.scale, axis=2)

    def resampled(self, batch: Pixels, parts: Sequence[Part]) -> list[Pixels]:
        return [resize(image, part.size, part.box) for image, part in zip(self(batch), parts, strict=True)]


class Blur(Repeat):
    """Sees as far as realesr-general-x4v3 does: 34 pixels, by a mean over 69, and zeros beyond the edge as it does."""

    def __call__(self, batch: Pixels) -> Pixels:
        sums = batch.astype(np.float64)
        for axis in (1, 2):
            padding = [(34, 35) if i == axis else (0, 0) for i in range(4)]
            running = np.pad(sums, padding).cumsum(axis=axis)
            length = batch.shape[axis]
            sums = np.take(running, range(69 - 1, 69 - 1 + length), axis) - np.take(
                np.insert(running, 0, 0, axis=axis), range(length), axis
            )
        return super().__call__((sums / 69**2).round().astype(np.uint8))


def photo(width: int, height: int) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 120), st.integers(1, 120), st.floats(0.1, 10), st.integers(8, 64), st.integers(1, 5))
def test_the_result_is_that_of_the_whole_photo(width: int, height: int, scale: float, tile: int, batch: int) -> None:
    pixels = photo(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    whole = resize(Repeat()(pixels[np.newaxis])[0], size)
    difference = upscale(pixels, size, Repeat(), tile, batch).astype(int) - whole
    assert np.abs(difference).max() <= 2  # filter weights are rounded, per tile and axis


def test_a_network_that_looks_far_leaves_no_seam() -> None:
    pixels = photo(300, 200)
    whole = resize(Blur()(pixels[np.newaxis])[0], (600, 400))
    difference = upscale(pixels, (600, 400), Blur(), tile=50, batch=2).astype(int) - whole
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(("width", "height"), [(385, 300), (700, 464), (1000, 33)])
def test_all_windows_have_one_shape(width: int, height: int) -> None:
    """A network then compiles or tunes once."""
    network = Repeat()
    upscale(photo(width, height), (width * 2, height * 2), network, tile=100, batch=1)
    assert len(network.shapes) == 1
