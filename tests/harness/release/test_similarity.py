"""Our SSIM must be the one that everybody means: scikit-image's, on the same pictures."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from harness.release.similarity import ssim

ASTRONAUT: NDArray[np.uint8] = skimage.data.astronaut()[::2, ::2]


def changed(how: str) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    values = {
        "noise": ASTRONAUT + rng.normal(0, 20, ASTRONAUT.shape),
        "darker": ASTRONAUT * 0.6,
        "shifted": np.roll(ASTRONAUT, 3, axis=1),
        "unrelated": rng.integers(0, 256, ASTRONAUT.shape),
    }[how]
    changed: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return changed


@pytest.mark.parametrize("how", ["noise", "darker", "shifted", "unrelated"])
def test_it_agrees_with_scikit_image(how: str) -> None:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2}
    wanted = structural_similarity(ASTRONAUT, changed(how), data_range=255, **options)
    assert ssim(ASTRONAUT, changed(how)) == pytest.approx(wanted, abs=1e-4)


def test_a_region_sees_what_the_whole_hardly_does() -> None:
    spoilt = ASTRONAUT.copy()
    spoilt[40:60, 100:120] = 0
    assert ssim(ASTRONAUT, spoilt) > 0.97
    assert ssim(ASTRONAUT, spoilt, (100, 40, 120, 60)) < 0.2
    assert ssim(ASTRONAUT, spoilt, (0, 100, 50, 200)) == pytest.approx(1)


def test_a_picture_smaller_than_the_window_is_compared_too() -> None:
    tiny = ASTRONAUT[:5, :5]
    assert ssim(tiny, tiny) == pytest.approx(1)
    assert ssim(tiny, 255 - tiny) < 0.5
