"""What pasting must equal: every face blended over the whole photo, in float64, at exact pixel centres."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def whole_photo_reference(canvas: Array, pastes: list[tuple[Array, Array, Array]]) -> Array:
    """Blend every crop over the whole canvas in float64, sampling bilinearly at exact pixel centres."""
    result = canvas.astype(np.float64)
    y, x = np.mgrid[0 : canvas.shape[0], 0 : canvas.shape[1]].astype(np.float64)
    for face, mask, matrix in pastes:
        at = np.stack([matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] for i in (0, 1)])
        alpha = bilinear(mask.astype(np.float64)[..., None], at)
        result += alpha * (bilinear(face.astype(np.float64), at) - result)
    return result


def bilinear(picture: Array, at: Array, outside: tuple[float, ...] = (0.0,)) -> Array:
    """Sample (height, width, channels) float64 at x, y = `at`; beyond the edge lies `outside`."""
    padded = np.pad(picture - np.array(outside), ((1, 1), (1, 1), (0, 0)))
    x, y = (np.clip(at[i] + 1, 0, picture.shape[1 - i] + 0.999999) for i in (0, 1))
    left, top = x.astype(int), y.astype(int)
    right_part, low_part = (x - left)[..., None], (y - top)[..., None]
    upper = padded[top, left] * (1 - right_part) + padded[top, left + 1] * right_part
    lower = padded[top + 1, left] * (1 - right_part) + padded[top + 1, left + 1] * right_part
    return np.asarray(upper * (1 - low_part) + lower * low_part + np.array(outside))
