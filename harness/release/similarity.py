"""How alike two pictures are to an eye: structural similarity (SSIM), overall and within a face's region.

Wang et al. 2004, with their Gaussian window, over OpenCV, which the model needs anyway: scikit-image has it too but
brings SciPy along, so it only checks this one in a test.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""

_SIGMA, _RADIUS = 1.5, 5  # of the window; 11 pixels wide
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(one: Pixels, other: Pixels, region: Box | None = None) -> float:
    """Return the mean SSIM of two pictures of equal shape (H, W, 3): 1 for equal ones, about 0 for unrelated ones.

    region: only there; else everywhere that the window fits, if it fits at all.
    """
    similarity = _map(one.astype(np.float64), other.astype(np.float64))
    if region is not None:
        left, top, right, bottom = region
        similarity = similarity[top:bottom, left:right]
    elif min(similarity.shape[:2]) > 2 * _RADIUS:
        similarity = similarity[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
    return float(similarity.mean())


def _map(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x = _blurred(x * x) - mean_x**2
    variance_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return np.asarray(luminance * structure, dtype=np.float64)


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    side = 2 * _RADIUS + 1
    blurred = cv2.GaussianBlur(values, (side, side), _SIGMA, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, dtype=np.float64)
